// The two kinds of rank: the coordinator (0) and workers. main.c has read flags and model by then; both end with the process's exit code.
//
//   meeting        rank 0                                    workers
//   1 settings     decides the job, shares it ------------>
//   2 report       has read config and tokenizer             have opened and checked the weights
//   3 report       listens for workers and clients           -
//   4 post         shares each one's address -------------->
//   5 report       -                                         have made communicators and engine
//   6 run          coordinator's loop <===== control =====>  step loop
//   7 report       (after a drain)                           leave together
//
// A report that fails anywhere ends all ranks with its code.
#ifndef TI_LAUNCH_RANK_H
#define TI_LAUNCH_RANK_H
#include "launch/meet.h"
#include "launch/settings.h"

// What rank 0 tells each rank before the engines are made.
typedef struct ti_post {
  char address[160];               // of the control link
  int32_t host_index, host_count;  // this worker among those of its host
} ti_post;

#define TI_RANK_SETTINGS_US 60000000u  // sharing settings, opening files
#define TI_RANK_GOODBYE_US 5000000u

// Both take the job, shared already. *lost: a rank may be dead, MPI_Finalize could hang.
ti_exit ti_rank_coordinate(ti_meet *m, const ti_settings *job, const ti_config *model, bool *lost);
ti_exit ti_rank_work(ti_meet *m, const ti_settings *job, bool *lost);
// Prints what ended the job and writes the status file, on the rank that knows (rank 0, or a worker whose rank 0 is gone).
void ti_rank_say_end(const ti_settings *job, ti_exit code, int rank, const char *host, const char *doing, const char *message);

#endif
