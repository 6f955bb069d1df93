// Files that tell a launcher how things stand (see exit.h).
#include "launch/exit.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"

ti_status ti_text_file_write(const char *path, const char *text) {
  char tmp[1024];
  const int n = snprintf(tmp, sizeof tmp, "%s.%d", path, (int)getpid());
  if (n < 0 || (size_t)n >= sizeof tmp) return TI_ERR_RANGE;
  const int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return TI_ERR_IO;
  const size_t len = strlen(text);
  bool ok = write(fd, text, len) == (ssize_t)len && write(fd, "\n", 1) == 1;
  ok = close(fd) == 0 && ok;
  if (ok && rename(tmp, path) == 0) return TI_OK;
  unlink(tmp);
  return TI_ERR_IO;
}

ti_status ti_status_file_write(const char *path, ti_exit code, int rank, const char *doing, const char *message) {
  ti_buf b;
  ti_buf_init(&b, 1 << 16);
  ti_status st = ti_buf_printf(&b, "{\"exit\": %d, \"rank\": %d, \"doing\": ", (int)code, rank);
  if (!st) st = ti_buf_json_string(&b, doing, strlen(doing));
  if (!st) st = ti_buf_puts(&b, ", \"message\": ");
  if (!st) st = ti_buf_json_string(&b, message, strlen(message));
  if (!st) st = ti_buf_putc(&b, '}');
  if (!st) st = ti_text_file_write(path, ti_buf_str(&b));
  ti_buf_fini(&b);
  return st;
}
