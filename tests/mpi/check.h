// A few lines for plain mains under mpirun: CHECK counts and prints, main returns check_end(). No framework: MPI_Init may be called once a process.
#ifndef TI_TESTS_MPI_CHECK_H
#define TI_TESTS_MPI_CHECK_H
#include <stdint.h>
#include <stdio.h>

static int check_rank, check_failed, check_done;

#define CHECK(cond, ...)                                                              \
  do {                                                                                \
    check_done++;                                                                     \
    if (!(cond) && check_failed++ < 20) {                                             \
      fprintf(stderr, "rank %d: %s:%d: %s: ", check_rank, __FILE__, __LINE__, #cond); \
      fprintf(stderr, __VA_ARGS__);                                                   \
      fputc('\n', stderr);                                                            \
    }                                                                                 \
  } while (0)

static inline int check_end(const char *name) {
  if (check_rank == 0 || check_failed) printf("%s: rank %d: %d checks, %d bad\n", name, check_rank, check_done, check_failed);
  return check_failed != 0;
}

// A number that tells seed, rank and index apart; of varied size, so that the order of a sum shows.
static inline float check_value(uint32_t seed, int rank, size_t i) {
  uint32_t h = seed * 2654435761u ^ (uint32_t)rank * 40503u ^ (uint32_t)i * 2246822519u;
  h ^= h >> 15;
  h *= 2246822519u;
  h ^= h >> 13;
  const float unit = (float)(h & 0xffffff) / 16777216.0f - 0.5f;
  return unit * (float)(1u << ((h >> 24) % 12));
}

#endif
