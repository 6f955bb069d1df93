// Stop strings and held-back text, against a naive search over the whole text.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/gateway/textstream.h"

static ti_tokenizer *tok;
static ti_tokenizer *load(void) {
  ti_error err = {0};
  cr_assert_eq(ti_tokenizer_load(TI_SOURCE_DIR "/models/titan-tiny-dense", &tok, &err), TI_OK, "%s", err.text);
  return tok;
}

static uint64_t state = 12345;
static uint32_t draw(uint32_t n) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(state >> 33) % n;
}

// The oracle: the whole text is searched after each byte, as a child would.
static size_t naive_cut(const char *text, size_t n, const size_t *token_end, uint32_t n_token, const ti_gen_params *p, uint32_t *tokens, int *which) {
  for (size_t end = 1; end <= n; end++) {
    uint32_t t = 0;
    while (token_end[t] < end) t++;
    if (t + 1 <= p->min_tokens) continue;
    size_t best = 0;
    for (uint32_t i = 0; i < p->n_stop; i++) {
      const size_t k = p->stop[i].n;
      if (k <= end && memcmp(text + end - k, p->stop[i].s, k) == 0 && k > best) best = k, *which = (int)i;
    }
    if (best) {
      *tokens = t + 1;
      return end - best;
    }
  }
  *tokens = n_token;
  *which = -1;
  return n;
}

Test(textstream, finds_what_a_naive_search_finds) {
  load();
  for (int round = 0; round < 3000; round++) {
    uint32_t ids[40], n = 1 + draw(40), taken = 0;
    size_t end[41];
    ti_buf whole;
    ti_buf_init(&whole, 1 << 20);
    ti_detok d;
    ti_detok_init(&d, tok, TI_TOK_CONTINUE | TI_TOK_SKIP_SPECIAL);
    const uint32_t base = 3 + draw(400), span = 1 + draw(12);  // few different tokens: many repeats
    for (uint32_t i = 0; i < n; i++) {
      ids[i] = base + draw(span);
      cr_assert_eq(ti_detok_push(&d, (int32_t)ids[i], &whole), TI_OK);
      end[i] = whole.len;
    }
    cr_assert_eq(ti_detok_finish(&d, &whole), TI_OK);
    end[n - 1] = end[n] = whole.len;
    ti_gen_params p;
    ti_gen_params_init(&p);
    ti_tok_text stop[4];
    p.ignore_eos = true;
    p.n_stop = draw(4);
    p.min_tokens = draw(4) == 0 ? draw(n) : 0;
    p.stop = stop;
    char text[4][16];
    for (uint32_t i = 0; i < p.n_stop; i++) {  // pieces of the text, sometimes with a wrong last byte
      const size_t len = 1 + draw(8), at = whole.len ? draw((uint32_t)whole.len) : 0;
      const size_t k = at + len <= whole.len ? len : whole.len - at;
      if (k == 0) {
        memcpy(text[i], "zz", 2);
        stop[i] = (ti_tok_text){text[i], 2};
        continue;
      }
      memcpy(text[i], whole.data + at, k);
      if (draw(3) == 0) text[i][k - 1] = 'Q';
      stop[i] = (ti_tok_text){text[i], k};
    }
    uint32_t want_tokens = 0;
    int want_which = -1;
    const size_t want = naive_cut(ti_buf_str(&whole), whole.len, end, n, &p, &want_tokens, &want_which);

    ti_textstream *s;
    cr_assert_eq(ti_textstream_create(tok, &p, &s), TI_OK);
    ti_buf out;
    ti_buf_init(&out, 1 << 20);
    while (taken < n && ti_textstream_peek(s).end == TI_TEXT_GOES_ON) {
      uint32_t k = 1 + draw(5);
      if (k > n - taken) k = n - taken;
      cr_assert_eq(ti_textstream_push(s, ids + taken, k, NULL, &out), TI_OK);
      taken += k;
      // whatever is out must be a beginning of the right answer: nothing that a stop string claims was let go
      cr_assert(out.len <= want && memcmp(out.data ? out.data : "", whole.data ? whole.data : "", out.len) == 0, "round %d", round);
    }
    cr_assert_eq(ti_textstream_finish(s, &out), TI_OK);
    const ti_textstream_state at = ti_textstream_peek(s);
    // the naive search sees the U+FFFD of an unfinished end as text; the stream gives it out unsearched
    if (want_which >= 0 && at.end == TI_TEXT_GOES_ON) {
      cr_assert_eq(want_tokens, n);
    } else {
      cr_assert_eq(out.len, want, "round %d: %zu, want %zu", round, out.len, want);
      cr_assert_eq(at.n_token, want_tokens, "round %d", round);
      if (want_which >= 0) cr_assert_eq(at.end, TI_TEXT_STOP_STRING);
    }
    ti_textstream_destroy(s);
    ti_buf_fini(&out);
    ti_buf_fini(&whole);
  }
  ti_tokenizer_destroy(tok);
}

static void say(ti_textstream *s, const char *text, ti_buf *out) {
  ti_tok_scratch *scratch;
  ti_ids ids;
  ti_error err = {0};
  ti_ids_init(&ids, 1000);
  cr_assert_eq(ti_tok_scratch_create(&scratch), TI_OK);
  cr_assert_eq(ti_tokenizer_encode(tok, scratch, text, strlen(text), 0, &ids, &err), TI_OK);
  cr_assert_eq(ti_textstream_push(s, (const uint32_t *)ids.v, (uint32_t)ids.n, NULL, out), TI_OK);
  ti_ids_fini(&ids);
  ti_tok_scratch_destroy(scratch);
}

Test(textstream, holds_back_only_what_may_begin_a_stop_string) {
  load();
  ti_tok_text stop = {"little bird", 11};
  ti_gen_params p;
  ti_gen_params_init(&p);
  p.stop = &stop;
  p.n_stop = 1;
  ti_textstream *s;
  ti_buf out;
  ti_buf_init(&out, 1000);
  cr_assert_eq(ti_textstream_create(tok, &p, &s), TI_OK);
  say(s, "a little b", &out);
  cr_assert_str_eq(ti_buf_str(&out), "a ");
  say(s, "ear", &out);
  cr_assert_str_eq(ti_buf_str(&out), "a little bear");
  say(s, "a little bird sang", &out);
  cr_assert_str_eq(ti_buf_str(&out), "a little beara ");
  cr_assert_eq(ti_textstream_peek(s).end, TI_TEXT_STOP_STRING);
  ti_textstream_destroy(s);
  ti_buf_fini(&out);
  ti_tokenizer_destroy(tok);
}

Test(textstream, a_stop_token_has_no_text_and_waits_for_min_tokens) {
  uint32_t ids[] = {7, 9, 7, 9, 5}, stop_id = 9;
  ti_gen_params p;
  ti_gen_params_init(&p);
  p.stop_id = &stop_id;
  p.n_stop_id = 1;
  p.min_tokens = 2;
  ti_textstream *s;
  ti_buf out;
  ti_buf_init(&out, 1000);
  cr_assert_eq(ti_textstream_create(NULL, &p, &s), TI_OK);
  cr_assert_eq(ti_textstream_push(s, ids, 5, NULL, &out), TI_OK);
  const ti_textstream_state at = ti_textstream_peek(s);
  cr_assert(at.end == TI_TEXT_STOP_TOKEN && at.n_token == 4 && at.stop_id == 9 && out.len == 0);
  ti_textstream_destroy(s);
  ti_buf_fini(&out);
}
