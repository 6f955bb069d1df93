// The control plane: what goes in comes out, byte for byte the encoding that protobuf-c would write.
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "proto/wire_priv.h"
#include "wire_samples.h"

extern const ProtobufCMessageDescriptor titan__control__descriptor, titan__client_request__descriptor, titan__client_reply__descriptor;

static ti_arena arena;
static ti_buf buf, again;
static void setup(void) {
  ti_arena_init(&arena, 1 << 20);
  ti_buf_init(&buf, 1 << 20);
  ti_buf_init(&again, 1 << 20);
}
static void teardown(void) {
  ti_arena_fini(&arena);
  ti_buf_fini(&buf);
  ti_buf_fini(&again);
}
TestSuite(wire_control, .init = setup, .fini = teardown);

// Decoded and encoded again, the bytes must be the same: every field that travels is compared.
static ti_control round_trip(const ti_control *c) {
  ti_control out;
  ti_error err = {0};
  ti_buf_reset(&buf);
  ti_buf_reset(&again);
  cr_assert_eq(ti_wire_encode_control(c, &buf), TI_OK);
  cr_assert_eq(ti_wire_decode_control(buf.data, buf.len, &sample_limits, &arena, &out, &err), TI_OK, "kind %d: %s", c->kind, err.text);
  cr_assert_eq(out.kind, c->kind);
  cr_assert_eq(ti_wire_encode_control(&out, &again), TI_OK);
  cr_assert_eq(buf.len, again.len);
  cr_assert_eq(memcmp(buf.data, again.data, buf.len), 0, "kind %d", c->kind);
  return out;
}

static void expect_protobuf_c_writes_the_same(const ProtobufCMessageDescriptor *d) {
  ProtobufCMessage *m = protobuf_c_message_unpack(d, NULL, buf.len, (const uint8_t *)buf.data);
  cr_assert_not_null(m);
  uint8_t bytes[16384];
  const size_t n = protobuf_c_message_get_packed_size(m);
  cr_assert_leq(n, sizeof bytes);
  protobuf_c_message_pack(m, bytes);
  cr_assert_eq(n, buf.len);
  cr_assert_eq(memcmp(bytes, buf.data, n), 0);
  protobuf_c_message_free_unpacked(m, NULL);
}

Test(wire_control, every_message_with_every_field_set_round_trips) {
  for (int k = TI_CTL_CHALLENGE; k <= TI_CTL_PLACEMENT; k++) {
    const ti_control c = sample_control((ti_control_kind)k);
    round_trip(&c);
    expect_protobuf_c_writes_the_same(&titan__control__descriptor);
  }
}

Test(wire_control, every_message_with_no_field_set_round_trips) {
  for (int k = TI_CTL_CHALLENGE; k <= TI_CTL_PLACEMENT; k++) {
    ti_control c = {.kind = (ti_control_kind)k};
    if (k == TI_CTL_PLAN) c.plan.n_micro = 1;  // 0 is out of its range
    round_trip(&c);
    expect_protobuf_c_writes_the_same(&titan__control__descriptor);
  }
}

// A table row that reads the wrong member would round-trip all the same: the names are compared, and some values by hand below.
static void expect_rows_match(const wire_msg *m, int depth) {
  cr_assert_lt(depth, 5);
  cr_assert_eq(m->n_field, m->pb->n_fields, "%s: %u rows, %u fields", m->pb->name, m->n_field, m->pb->n_fields);
  for (uint32_t i = 0; i < m->n_field; i++) {
    const wire_field *f = &m->field[i];
    const ProtobufCFieldDescriptor *fd = &m->pb->fields[i];
    cr_assert_str_eq(f->name, fd->name, "%s", m->pb->name);
    cr_assert_eq(fd->id, i + 1, "%s.%s", m->pb->name, fd->name);
    cr_assert_eq(f->sub != NULL, fd->type == PROTOBUF_C_TYPE_MESSAGE, "%s.%s", m->pb->name, fd->name);
    if (f->sub) {
      cr_assert_eq(f->sub->pb, fd->descriptor, "%s.%s", m->pb->name, fd->name);
      expect_rows_match(f->sub, depth + 1);
    }
  }
}

Test(wire_control, tables_follow_the_schema) {
  for (int k = 1; k < WIRE_CONTROL_KINDS; k++) {
    cr_assert_eq(ti_wire_control_body[k]->pb, titan__control__descriptor.fields[k - 1].descriptor);
    expect_rows_match(ti_wire_control_body[k], 0);
  }
  for (int k = 2; k < WIRE_CLIENT_KINDS; k++) {
    if (ti_wire_request_body[k]) {
      cr_assert_eq(ti_wire_request_body[k]->pb, titan__client_request__descriptor.fields[k - 1].descriptor);
      expect_rows_match(ti_wire_request_body[k], 0);
    }
    cr_assert_eq(ti_wire_reply_body[k]->pb, titan__client_reply__descriptor.fields[k - 1].descriptor);
    expect_rows_match(ti_wire_reply_body[k], 0);
  }
}

Test(wire_control, values_arrive_where_they_belong) {
  ti_control c = sample_plan();
  const ti_control p = round_trip(&c);
  cr_assert_eq(p.plan.step, 1ull << 33);
  cr_assert_eq(p.plan.release.n, 3);
  cr_assert_eq(p.plan.release.v[2], 4);
  cr_assert_eq(p.plan.n_assign, 2);
  cr_assert_eq(p.plan.assign[1].slot, 4);
  cr_assert_eq(p.plan.assign[1].ids.v[2], 999);
  cr_assert_eq(p.plan.assign[1].sampling.seed, 0xfedcba9876543210u);
  cr_assert_eq(p.plan.assign[1].sampling.top_k, 40);
  cr_assert_float_eq(p.plan.assign[1].sampling.bias_value.v[1], -3.25f, 0);
  cr_assert_eq(p.plan.pages[0].pages.v[1], 63);
  cr_assert_eq(p.plan.row[1].n_token, 54);
  cr_assert(p.plan.row[2].decode && !p.plan.row[2].sample);
  c = sample_result();
  const ti_control r = round_trip(&c);
  cr_assert_eq(r.result.row[0].top[0].id[1], 999);
  cr_assert_float_eq(r.result.row[0].top[0].logprob[1], -4.0f, 0);
  cr_assert_eq(r.result.row[0].top[2].n, 1);
  cr_assert_eq(r.result.row[0].n_accepted, 2);
  cr_assert_eq(r.result.times.slowest_us, 10);
  cr_assert_eq(r.result.expert_load.v[1], 4000000000u);
  c = sample_control(TI_CTL_HELLO);
  const ti_control h = round_trip(&c);
  cr_assert_str_eq(h.hello.host,
                   "n\xC3\xB8"
                   "de1");
  cr_assert_eq(h.hello.hmac[31], 224);
}

Test(wire_control, negative_and_default_values_survive) {
  ti_control c = sample_plan();
  some_assign[0].sampling =
      (ti_sampling){.repetition = 1, .top_k = -1, .n_logprob = -1, .n_prompt_logprob = 0};  // temperature and top_p 0: no defaults
  const ti_control p = round_trip(&c);
  cr_assert_eq(p.plan.assign[0].sampling.top_k, -1);
  cr_assert_eq(p.plan.assign[0].sampling.n_logprob, -1);
  cr_assert_eq(p.plan.assign[0].sampling.n_prompt_logprob, 0);
  cr_assert_float_eq(p.plan.assign[0].sampling.temperature, 0, 0);
  cr_assert_float_eq(p.plan.assign[0].sampling.repetition, 1, 0);
}

Test(wire_control, a_large_message_needs_length_bytes_moved_up) {
  static uint32_t ids[200];
  for (uint32_t i = 0; i < 200; i++) ids[i] = 999;
  ti_control c = sample_plan();
  some_assign[0].ids = (ti_u32s){ids, 200};  // 400 bytes of varints inside a submessage inside the envelope: three lengths of two bytes
  const ti_control p = round_trip(&c);
  expect_protobuf_c_writes_the_same(&titan__control__descriptor);
  cr_assert_eq(p.plan.assign[0].ids.v[199], 999);
}

Test(wire_control, encode_leaves_a_full_buffer_as_it_was) {
  const ti_control c = sample_plan();
  round_trip(&c);
  const size_t whole = buf.len;
  for (size_t max = 1; max < whole; max++) {
    ti_buf small;
    ti_buf_init(&small, max);
    cr_assert_eq(ti_buf_append(&small, "x", 1), TI_OK);
    cr_assert_eq(ti_wire_encode_control(&c, &small), TI_ERR_FULL, "max %zu", max);
    cr_assert_eq(small.len, 1);
    ti_buf_fini(&small);
  }
}

Test(wire_control, encode_refuses_what_it_cannot_say) {
  ti_control c = {.kind = TI_CTL_NONE};
  cr_assert_eq(ti_wire_encode_control(&c, &buf), TI_ERR_ARG);
  c = sample_result();
  some_tops[0].n = TI_TOP_MAX + 1;
  cr_assert_eq(ti_wire_encode_control(&c, &buf), TI_ERR_ARG);
  cr_assert_eq(buf.len, 0);
}

Test(wire_control, hmac_equals_python_s) {
  // python3: hmac.new(b"titan job secret", bytes(range(32)) + (0x01020304).to_bytes(4, "little"), "sha256").hexdigest()
  static const char want[] = "17cf52ee1023fe0fb3cb9319dcbc114c3b470b83c565d9ae556f4169ff6fc1cb";
  uint8_t nonce[TI_NONCE_BYTES], mac[TI_HMAC_BYTES];
  char hex[65];
  for (int i = 0; i < TI_NONCE_BYTES; i++) nonce[i] = (uint8_t)i;
  ti_wire_hmac((const uint8_t *)"titan job secret", 16, nonce, 0x01020304, mac);
  for (int i = 0; i < TI_HMAC_BYTES; i++) snprintf(hex + 2 * i, 3, "%02x", mac[i]);
  cr_assert_str_eq(hex, want);
  uint8_t other[TI_HMAC_BYTES];
  memcpy(other, mac, sizeof other);
  cr_assert(ti_wire_hmac_equal(mac, other));
  other[31] ^= 1;
  cr_assert_not(ti_wire_hmac_equal(mac, other));
}

Test(wire_control, random_bytes_differ) {
  uint8_t a[512] = {0}, b[512] = {0};
  cr_assert_eq(ti_wire_random(a, sizeof a), TI_OK);
  cr_assert_eq(ti_wire_random(b, sizeof b), TI_OK);
  cr_assert_neq(memcmp(a, b, sizeof a), 0);
}
