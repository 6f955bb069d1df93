// The page served at / (see page.h): none in this build.
#include "coordinator/gateway/page.h"

const char *ti_page(size_t *n) {
  *n = 0;
  return NULL;
}
