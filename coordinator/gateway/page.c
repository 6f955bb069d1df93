// The page served at / (see page.h): page.html, taken into the binary by the assembler (TI_PAGE_FILE is its path, from CMakeLists.txt).
#include "coordinator/gateway/page.h"

__asm__(
    ".pushsection .rodata\n"
    "ti_page_begin:\n"
    ".incbin \"" TI_PAGE_FILE
    "\"\n"
    "ti_page_end:\n"
    ".byte 0\n"
    ".popsection\n");
extern const char ti_page_begin[] __attribute__((visibility("hidden")));
extern const char ti_page_end[] __attribute__((visibility("hidden")));

const char *ti_page(size_t *n) {
  *n = (size_t)(ti_page_end - ti_page_begin);
  return ti_page_begin;
}
