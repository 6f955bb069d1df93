// Windows between the processes of one host: made at set-up by the thread that owns the communicator, then plain memory.
//
//   file:  | 16 random bytes, 0 .. (a page) | own[bytes] |
//
// all-gather 1: everybody's card (pid, descriptor, size, the bytes); each maps what it finds. all-gather 2: who sees whom, after which the
// descriptors are closed. The file is sealed against shrinking, so that reading a mapped window cannot fault.
#include "parallel/window.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/log.h"

#define NAME "titan-window"
#define HEAD 4096
#define HUGE_FROM ((size_t)32 << 20)

typedef struct card {
  int32_t pid, fd;  // pid 0: nothing to see
  uint64_t bytes;
  uint8_t token[16];
} card;

// The own file and its mapping; *fd -1 where memory is private.
static char *make_own(size_t bytes, bool shared, int *fd, card *mine) {
  *fd = shared ? memfd_create(NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING) : -1;
  if (*fd >= 0 && (getrandom(mine->token, sizeof mine->token, GRND_NONBLOCK) != sizeof mine->token || ftruncate(*fd, (off_t)(HEAD + bytes)) ||
                   fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))) {
    close(*fd);
    *fd = -1;
  }
  char *p = mmap(NULL, HEAD + bytes, PROT_READ | PROT_WRITE, MAP_NORESERVE | (*fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS), *fd, 0);
  if (p == MAP_FAILED) return NULL;
  if (bytes >= HUGE_FROM) madvise(p, HEAD + bytes, MADV_HUGEPAGE);
  if (*fd >= 0) {
    memcpy(p, mine->token, sizeof mine->token);
    mine->pid = getpid();
    mine->fd = *fd;
    mine->bytes = bytes;
  }
  return p;
}

// The window that a card names, or NULL. The link's text is looked at first: on another host the same number may be any file at all.
static char *map_peer(const card *c, size_t bytes) {
  char path[64], link[64];
  if (c->pid <= 0 || c->fd < 0 || c->bytes != bytes) return NULL;
  snprintf(path, sizeof path, "/proc/%d/fd/%d", c->pid, c->fd);
  const ssize_t n = readlink(path, link, sizeof link - 1);
  if (n <= 0) return NULL;
  link[n] = 0;
  if (strncmp(link, "/memfd:" NAME, sizeof "/memfd:" NAME - 1) != 0) return NULL;
  const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return NULL;
  char *p = MAP_FAILED;
  if (lseek(fd, 0, SEEK_END) == (off_t)(HEAD + bytes) && fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK)
    p = mmap(NULL, HEAD + bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
  close(fd);
  if (p == MAP_FAILED) return NULL;
  if (memcmp(p, c->token, sizeof c->token) != 0) {
    munmap(p, HEAD + bytes);
    return NULL;
  }
  return p;
}

static ti_status meet(ti_coll *c, ti_window *w, int within, const card *mine, ti_error *err) {
  const size_t n = (size_t)c->size;
  card *all = calloc(n, sizeof *all);
  uint8_t *sees = calloc(n, n);  // [n, n] row r: whom rank r sees
  size_t *counts = malloc(2 * n * sizeof *counts);
  ti_status st = TI_ERR_NOMEM;
  if (!all || !sees || !counts) {
    ti_error_set(err, st, "windows of %zu ranks: out of memory", n);
    goto done;
  }
  for (size_t i = 0; i < n; i++) {
    counts[i] = sizeof *all;
    counts[n + i] = n;
  }
  st = ti_coll_all_gather(c, mine, all, counts, TI_U8);
  for (int r = 0; r < c->size && !st; r++) {
    if (r == c->rank || (within && r / within != c->rank / within)) continue;
    char *p = map_peer(&all[r], w->bytes);
    w->peer[r] = p ? p + HEAD : NULL;
    sees[(size_t)c->rank * n + (size_t)r] = p != NULL;
    w->n_peer += p != NULL;
  }
  if (!st) st = ti_coll_all_gather(c, sees + (size_t)c->rank * n, sees, counts + n, TI_U8);
  if (st) ti_error_set(err, st, "windows: %s", ti_status_text(st));
  for (int r = 0; r < c->size && !st; r++) w->seen[r] = r != c->rank && sees[(size_t)r * n + (size_t)c->rank];

done:
  free(counts);
  free(sees);
  free(all);
  return st;
}

ti_status ti_window_create(ti_coll *c, size_t bytes, int within, ti_window *out, ti_error *err) {
  const size_t n = (size_t)c->size;
  ti_window w = {.bytes = bytes, .n = c->size, .peer = calloc(n, sizeof *w.peer), .seen = calloc(n, sizeof *w.seen)};
  const bool shared = n > 1 && within != 1;
  card mine = {0};
  int fd = -1;
  ti_status st = TI_OK;
  char *own = w.peer && w.seen ? make_own(bytes, shared, &fd, &mine) : NULL;
  if (own) {
    w.own = own + HEAD;
    w.peer[c->rank] = w.own;
  } else {
    st = ti_error_set(err, TI_ERR_NOMEM, "window of %zu bytes: out of memory", bytes);
  }
  if (!st && shared) st = meet(c, &w, within, &mine, err);
  if (fd >= 0) close(fd);
  if (st) {
    ti_window_fini(&w);
    return st;
  }
  *out = w;
  return TI_OK;
}

void ti_window_fini(ti_window *w) {
  for (int r = 0; r < w->n && w->peer; r++)
    if (w->peer[r] && w->peer[r] != w->own) munmap((void *)(uintptr_t)(w->peer[r] - HEAD), HEAD + w->bytes);
  if (w->own) munmap(w->own - HEAD, HEAD + w->bytes);
  free(w->peer);
  free(w->seen);
  *w = (ti_window){0};
}
