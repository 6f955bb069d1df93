// Asks the kernel's routing table by way of an unsent datagram (see control_ip.h). Start-up only; may block in the resolver.
#include "launch/control_ip.h"

#include <errno.h>
#include <netdb.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

ti_status ti_control_ip(const char *host, char *out, size_t size, ti_error *err) {
  const struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_DGRAM};
  struct addrinfo *list;
  const int rc = getaddrinfo(host, "9", &hints, &list);  // discard: any port will do
  if (rc) return ti_error_set(err, TI_ERR_IO, "worker host %s has no address: %s; name this host's own with --control-ip", host, gai_strerror(rc));
  struct sockaddr_storage self;
  socklen_t n = sizeof self;
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const bool ok = fd >= 0 && connect(fd, list->ai_addr, list->ai_addrlen) == 0 && getsockname(fd, (struct sockaddr *)&self, &n) == 0 &&
                  getnameinfo((struct sockaddr *)&self, n, out, (socklen_t)size, NULL, 0, NI_NUMERICHOST) == 0;
  const int e = errno;
  if (fd >= 0) close(fd);
  freeaddrinfo(list);
  return ok ? TI_OK : ti_error_set(err, TI_ERR_IO, "no way to worker host %s: %s; name this host's address with --control-ip", host, strerror(e));
}
