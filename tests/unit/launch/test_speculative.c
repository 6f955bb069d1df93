// --speculative-config: what is read, what is filled in, and that refusals name field, value and limit.
#include <criterion/criterion.h>
#include <string.h>

#include "launch/speculative.h"

static ti_speculative s;
static ti_error err;

static void takes(const char *text, uint32_t max_draft, uint32_t min_n, uint32_t max_n) {
  cr_assert_eq(ti_speculative_parse(text, &s, &err), TI_OK, "%s: %s", text, err.text);
  cr_assert(s.max_draft == max_draft && s.min_n == min_n && s.max_n == max_n, "%s: %u %u %u", text, s.max_draft, s.min_n, s.max_n);
}
static void refuses(const char *text, const char *part) {
  cr_assert_eq(ti_speculative_parse(text, &s, &err), TI_ERR_ARG, "%s", text);
  cr_assert(strstr(err.text, "--speculative-config") && strstr(err.text, part), "%s\n  said: %s\n  want: %s", text, err.text, part);
  cr_assert_eq(s.max_draft, 0);
}

Test(speculative, is_read_as_vllm_spells_it) {
  takes("", 0, 0, 0);
  takes("{\"method\":\"ngram\",\"num_speculative_tokens\":5,\"prompt_lookup_max\":4,\"prompt_lookup_min\":2}", 5, 2, 4);
  takes("{\"method\":\"ngram\",\"num_speculative_tokens\":16}", 16, 5, 5);
  takes("{\"method\":\"ngram\",\"num_speculative_tokens\":1,\"prompt_lookup_max\":3}", 1, 3, 3);
  takes("{\"method\":\"ngram\",\"num_speculative_tokens\":1,\"prompt_lookup_min\":2,\"prompt_lookup_max\":null}", 1, 2, 2);
}
Test(speculative, refusals_name_the_field) {
  refuses("ngram", "--speculative-config");
  refuses("[]", "expected an object");
  refuses("{}", "method: is missing; known is ngram");
  refuses("{\"method\":\"eagle\",\"num_speculative_tokens\":5}", "method: \"eagle\" is not known; known is ngram");
  refuses("{\"method\":3}", "method: expected");
  refuses("{\"method\":\"ngram\"}", "num_speculative_tokens: is missing; expected an integer in 1..16");
  refuses("{\"method\":\"ngram\",\"num_speculative_tokens\":17}", "num_speculative_tokens: expected an integer in 1..16, got 17");
  refuses("{\"method\":\"ngram\",\"num_speculative_tokens\":\"5\"}", "num_speculative_tokens: expected an integer");
  refuses("{\"method\":\"ngram\",\"num_speculative_tokens\":5,\"prompt_lookup_min\":0}", "prompt_lookup_min: expected an integer in 1..16");
  refuses("{\"method\":\"ngram\",\"num_speculative_tokens\":5,\"prompt_lookup_max\":2,\"prompt_lookup_min\":3}",
          "prompt_lookup_min: 3 is above prompt_lookup_max, 2");
  refuses("{\"method\":\"ngram\",\"num_speculative_tokens\":5,\"prompt_lookup\":2}", "prompt_lookup: expected method");
}
