// As much of Criterion's interface as the conformance suite uses, for one program with all of it that needs no packages on the host that runs it
// (conformance.gpu). main.c beside this runs the tests; each in a process of its own, or all in this one for memory checkers.
#ifndef TI_PLAIN_CRITERION_H
#define TI_PLAIN_CRITERION_H

typedef struct plain_test {
  const char *suite, *name;
  void (*run)(void);
  struct plain_test *next;
} plain_test;
void plain_add(plain_test *t);
void plain_fail(const char *file, int line, const char *what, const char *format, ...) __attribute__((noreturn));

#define Test(suite_, name_)                                                            \
  static void suite_##_##name_(void);                                                  \
  __attribute__((constructor)) static void suite_##_##name_##_add(void) {              \
    static plain_test t = {.suite = #suite_, .name = #name_, .run = suite_##_##name_}; \
    plain_add(&t);                                                                     \
  }                                                                                    \
  static void suite_##_##name_(void)

#define cr_assert(condition, ...) ((condition) ? (void)0 : plain_fail(__FILE__, __LINE__, #condition, "" __VA_ARGS__))
#define cr_assert_eq(a, b, ...) (((a) == (b)) ? (void)0 : plain_fail(__FILE__, __LINE__, #a " == " #b, "" __VA_ARGS__))

#endif
