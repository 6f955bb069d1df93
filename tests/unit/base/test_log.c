#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

static int capture[2], saved = -1;

static void capture_stderr(void) {
  fflush(stderr);
  saved = dup(STDERR_FILENO);
  cr_assert_eq(pipe2(capture, O_NONBLOCK), 0);
  dup2(capture[1], STDERR_FILENO);
}

// What was written since capture_stderr.
static const char *captured(void) {
  static char text[65536];
  dup2(saved, STDERR_FILENO);
  close(saved);
  close(capture[1]);
  size_t n = 0;
  ssize_t got;
  while ((got = read(capture[0], text + n, sizeof(text) - 1 - n)) > 0) n += (size_t)got;
  text[n] = 0;
  close(capture[0]);
  return text;
}

static int count_lines(const char *s) {
  int n = 0;
  for (; *s; s++) n += *s == '\n';
  return n;
}

Test(log, a_line_has_time_level_rank_and_text) {
  capture_stderr();
  ti_log_set_rank(3);
  ti_log_info("room: thing key=%d", 5);
  ti_log_set_rank(-1);
  ti_log_warn("room: other");
  const char *s = captured();
  cr_assert_eq(s[2], ':');
  cr_assert_eq(s[8], '.');
  cr_assert_not_null(strstr(s, " info  rank=3 room: thing key=5\n"));
  cr_assert_not_null(strstr(s, " warn  room: other\n"));
  cr_assert_eq(count_lines(s), 2);
}

Test(log, below_the_level_nothing_is_written) {
  capture_stderr();
  ti_log_debug("no");
  ti_log_set_level(TI_LOG_ERROR);
  ti_log_warn("no");
  ti_log_error("yes");
  cr_assert_eq(count_lines(captured()), 1);
}

Test(log, control_characters_cannot_forge_a_line) {
  capture_stderr();
  ti_log_info("name=%s", "a\nfake\x1b[31m\x7f");
  const char *s = captured();
  cr_assert_eq(count_lines(s), 1);
  cr_assert_not_null(strstr(s, "name=a?fake?[31m?\n"));
}

Test(log, a_long_line_is_cut_but_still_one_line) {
  char big[5000];
  memset(big, 'x', sizeof(big) - 1);
  big[sizeof(big) - 1] = 0;
  capture_stderr();
  ti_log_info("%s", big);
  const char *s = captured();
  cr_assert_eq(count_lines(s), 1);
  cr_assert_gt(strlen(s), 1500);
}

Test(log, a_site_that_repeats_is_limited_and_says_so) {
  struct timespec now;
  do clock_gettime(CLOCK_MONOTONIC, &now);
  while (now.tv_nsec > 500000000);  // so that the burst does not cross a second
  capture_stderr();
  for (int burst = 0; burst < 2; burst++) {
    for (int i = 0; i < (burst ? 1 : 25); i++) ti_log_info("burst i=%d", i);
    if (burst == 0) usleep(1100000);
  }
  const char *s = captured();
  const int lines = count_lines(s);
  cr_assert_eq(lines, 11);
  cr_assert_not_null(strstr(s, "i=9\n"));
  cr_assert_null(strstr(s, "i=10"));
  cr_assert_not_null(strstr(s, "i=0 suppressed=15\n"));
}

Test(log, levels_parse) {
  ti_log_level l = TI_LOG_INFO;
  cr_assert_eq(ti_log_parse_level("debug", &l), TI_OK);
  cr_assert_eq(l, TI_LOG_DEBUG);
  cr_assert_eq(ti_log_parse_level("error", &l), TI_OK);
  cr_assert_eq(l, TI_LOG_ERROR);
  cr_assert_eq(ti_log_parse_level("loud", &l), TI_ERR_ARG);
}
