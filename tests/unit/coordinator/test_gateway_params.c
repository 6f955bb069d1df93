// Bodies -> parameters: what is read, what is refused, and that the refusal names the field.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/gateway/gateway_priv.h"
#include "coordinator/gateway/params.h"

static const ti_gen_limits lim = {.vocab = 1000, .max_model_len = 4096, .has_tokenizer = true};

typedef ti_status (*parser)(const char *, size_t, const ti_gen_limits *, ti_api_request *, ti_error *);

static void refused(parser parse, const char *body, const char *text) {
  ti_api_request r;
  ti_error err = {0};
  const ti_status st = parse(body, strlen(body), &lim, &r, &err);
  cr_assert(ti_failed(st), "%s was taken", body);
  cr_assert(strncmp(err.text, text, strlen(text)) == 0, "%s\n  said: %s\n  want: %s", body, err.text, text);
  ti_api_request_fini(&r);
}

static ti_api_request taken(parser parse, const char *body) {
  ti_api_request r;
  ti_error err = {0};
  cr_assert_eq(parse(body, strlen(body), &lim, &r, &err), TI_OK, "%s: %s", body, err.text);
  return r;
}

Test(params, completion_reads_every_field) {
  ti_api_request r =
      taken(ti_api_parse_completion,
            "{\"model\":\"m\",\"prompt\":[[1,2],[3]],\"n\":3,\"max_tokens\":7,\"min_tokens\":2,\"temperature\":0.5,\"top_p\":0.9,\"top_k\":5,"
            "\"min_p\":0.1,\"repetition_penalty\":1.1,\"frequency_penalty\":-1,\"presence_penalty\":2,\"seed\":-3,\"stop\":[\"a\",\"b\"],"
            "\"stop_token_ids\":[9],\"logit_bias\":{\"4\":-100,\"5\":1.5},\"logprobs\":4,\"echo\":true,\"stream\":true,\"ignore_eos\":true,"
            "\"stream_options\":{\"include_usage\":true},\"return_token_ids\":true,\"skip_special_tokens\":false,\"priority\":-2,\"zzz\":{}}");
  const ti_sampling *s = &r.gen.sampling;
  cr_assert_str_eq(r.model, "m");
  cr_assert(r.n_prompt == 2 && r.prompt[0].n_ids == 2 && r.prompt[1].ids[0] == 3);
  cr_assert(r.gen.n == 3 && r.gen.max_tokens == 7 && r.gen.min_tokens == 2 && r.gen.ignore_eos && !r.gen.skip_special && r.gen.priority == -2);
  cr_assert(s->temperature == 0.5f && s->top_p == 0.9f && s->top_k == 5 && s->min_p == 0.1f && s->repetition == 1.1f);
  cr_assert(s->frequency == -1 && s->presence == 2 && r.gen.has_seed && (int64_t)s->seed == -3);
  cr_assert(r.gen.n_stop == 2 && strcmp(r.gen.stop[1].s, "b") == 0 && r.gen.n_stop_id == 1 && r.gen.stop_id[0] == 9);
  cr_assert(s->bias_id.n == 2 && s->bias_value.n == 2 && s->bias_value.v[0] == -100);
  cr_assert(r.logprobs && s->n_logprob == 4 && s->n_prompt_logprob == 4 && r.echo && r.stream && r.include_usage && r.return_token_ids);
  ti_api_request_fini(&r);
}

Test(params, defaults_are_openais) {
  ti_api_request r =
      taken(ti_api_parse_completion, "{\"prompt\":\"x\",\"stop\":null,\"seed\":null,\"n\":null,\"stream_options\":null,\"logit_bias\":{}}");
  cr_assert(r.gen.n == 1 && r.gen.max_tokens == 16 && r.gen.sampling.temperature == 1 && r.gen.sampling.n_logprob == -1 && !r.gen.has_seed);
  ti_api_request_fini(&r);
  r = taken(ti_api_parse_chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_completion_tokens\":9,\"max_tokens\":5}");
  cr_assert(r.gen.max_tokens == 9 && r.gen.has_max_tokens && !r.add_special_tokens && !r.logprobs);
  ti_api_request_fini(&r);
}

Test(params, refusals_begin_with_the_field) {
  static const char *const cases[][2] = {
      {"[]", "the body: expected a JSON object"},
      {"{", "JSON: line 1"},
      {"{\"prompt\":\"x\",\"n\":1000000000}", "n: expected an integer in 1..128, got 1000000000"},
      {"{\"prompt\":\"x\",\"temperature\":-1}", "temperature: expected a number in 0..100, got -1"},
      {"{\"prompt\":\"x\",\"temperature\":\"a\"}", "temperature: expected a number"},
      {"{\"prompt\":\"x\",\"temperature\":1e300}", "temperature: "},
      {"{\"prompt\":\"x\",\"top_p\":0}", "top_p: "},
      {"{\"prompt\":\"x\",\"logprobs\":21}", "logprobs: expected an integer in 0..20, got 21"},
      {"{\"prompt\":\"x\",\"best_of\":2}", "best_of: "},
      {"{\"prompt\":\"x\",\"stop\":[1]}", "stop: entry 0: expected a string"},
      {"{\"prompt\":\"x\",\"stop\":[\"a\",\"\"]}", "stop: string 1 is empty"},
      {"{\"prompt\":\"x\",\"logit_bias\":{\"1000\":1}}", "logit_bias: \"1000\" is not a token id"},
      {"{\"prompt\":\"x\",\"logit_bias\":{\"1 \":1}}", "logit_bias: \"1 \" is not a token id"},
      {"{\"prompt\":\"x\",\"stop_token_ids\":[1000]}", "stop_token_ids: entry 0: 1000 is not a token id of this model (0..999)"},
      {"{\"prompt\":\"x\",\"stream\":1}", "stream: expected true or false"},
      {"{\"prompt\":\"x\",\"stream_options\":{}}", "stream_options: only allowed"},
      {"{\"prompt\":\"x\",\"min_tokens\":17}", "min_tokens: 17 is more than max_tokens, 16"},
      {"{}", "prompt: is required"},
      {"{\"prompt\":[[1],2]}", "prompt: expected a string"},
      {"{\"prompt\":[[1],[-2]]}", "prompt: entry 0: -2 is not a token id"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) refused(ti_api_parse_completion, cases[i][0], cases[i][1]);
}

Test(params, chat_refusals_name_the_message) {
  static const char *const cases[][2] = {
      {"{}", "messages: expected an array"},
      {"{\"messages\":[]}", "messages: is empty"},
      {"{\"messages\":[1]}", "messages[0]: expected an object"},
      {"{\"messages\":[{\"role\":1,\"content\":\"\"}]}", "messages[0].role: expected a string"},
      {"{\"messages\":[{\"role\":\"user\",\"content\":null}]}", "messages[0].content: expected a string or an array"},
      {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", "messages[0].content[0]: type \"image_url\" is not supported"},
      {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", "messages[0].content[0].text: expected a string"},
      {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"top_logprobs\":3}", "top_logprobs: only allowed when logprobs is true"},
      {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{}]}", "tools[0]: expected an object"},
      {"{\"messages\":[{\"role\":\"a\",\"tool_calls\":[{}]}]}", "messages[0].tool_calls[0].function: expected an object with a name"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) refused(ti_api_parse_chat, cases[i][0], cases[i][1]);
}

Test(params, messages_become_what_templates_want) {
  ti_api_request r =
      taken(ti_api_parse_chat,
            "{\"messages\":[{\"role\":\"developer\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]},"
            "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"}}]}],"
            "\"tools\":[{\"function\":{\"name\":\"f\"}}],\"chat_template_kwargs\":{\"thinking\":false}}");
  json_t *m = json_object_get(r.vars, "messages"), *first = json_array_get(m, 0), *second = json_array_get(m, 1);
  cr_assert_str_eq(json_string_value(json_object_get(first, "role")), "system");
  cr_assert_str_eq(json_string_value(json_object_get(first, "content")), "a\nb");
  json_t *f = json_object_get(json_array_get(json_object_get(second, "tool_calls"), 0), "function");
  cr_assert_eq(json_integer_value(json_object_get(json_object_get(f, "arguments"), "x")), 1);
  cr_assert(json_is_array(json_object_get(r.vars, "tools")) && json_is_false(json_object_get(r.vars, "thinking")));
  cr_assert(json_is_true(json_object_get(r.vars, "add_generation_prompt")));
  // the body itself is untouched
  cr_assert_str_eq(json_string_value(json_object_get(json_array_get(json_object_get(r.root, "messages"), 0), "role")), "developer");
  ti_api_request_fini(&r);
}

Test(params, the_field_is_read_off_the_message) {
  char p[64];
  ti_api_param_of("messages[3].content[0]: x", p, sizeof p);
  cr_assert_str_eq(p, "messages[3].content[0]");
  ti_api_param_of("JSON: line 3", p, sizeof p);
  cr_assert_str_eq(p, "");
  ti_api_param_of("the body: x", p, sizeof p);
  cr_assert_str_eq(p, "");
}
