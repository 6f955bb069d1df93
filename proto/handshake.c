// The handshake's three steps (see handshake.h). No state, no transport.
#include "proto/handshake.h"

#include <string.h>

ti_status ti_handshake_challenge(uint8_t nonce[TI_NONCE_BYTES], ti_buf *out) {
  ti_control c = {.kind = TI_CTL_CHALLENGE, .challenge = {.version = TI_WIRE_VERSION}};
  const ti_status st = ti_wire_random(c.challenge.nonce, TI_NONCE_BYTES);
  if (st != TI_OK) return st;
  memcpy(nonce, c.challenge.nonce, TI_NONCE_BYTES);
  return ti_wire_encode_control(&c, out);
}

ti_status ti_handshake_answer(const void *challenge, size_t n, const uint8_t *secret, size_t n_secret, const ti_msg_hello *hello, ti_arena *arena,
                              ti_buf *out, ti_error *err) {
  static const ti_wire_limits nothing = {0};
  ti_control in;
  const ti_status st = ti_wire_decode_control(challenge, n, &nothing, arena, &in, err);
  if (st != TI_OK) return st;
  if (in.kind != TI_CTL_CHALLENGE) return ti_error_set(err, TI_ERR_FORMAT, "handshake: message kind %d where a Challenge belongs", (int)in.kind);
  if (in.challenge.version != TI_WIRE_VERSION) {
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "Challenge.version: the coordinator speaks %u, this worker %u: start the same build everywhere",
                        in.challenge.version, TI_WIRE_VERSION);
  }
  ti_control answer = {.kind = TI_CTL_HELLO, .hello = *hello};
  answer.hello.version = TI_WIRE_VERSION;
  ti_wire_hmac(secret, n_secret, in.challenge.nonce, hello->rank, answer.hello.hmac);
  return ti_wire_encode_control(&answer, out);
}

ti_status ti_handshake_verify(const void *bytes, size_t n, const uint8_t *secret, size_t n_secret, const uint8_t nonce[TI_NONCE_BYTES], uint32_t rank,
                              uint32_t n_rank, ti_arena *arena, ti_msg_hello *out, ti_error *err) {
  const ti_wire_limits lim = {.n_rank = n_rank};
  ti_control in;
  const ti_status st = ti_wire_decode_control(bytes, n, &lim, arena, &in, err);
  if (st != TI_OK) return st;
  if (in.kind != TI_CTL_HELLO) return ti_error_set(err, TI_ERR_FORMAT, "handshake: message kind %d where a Hello belongs", (int)in.kind);
  uint8_t want[TI_HMAC_BYTES];
  ti_wire_hmac(secret, n_secret, nonce, in.hello.rank, want);
  if (!ti_wire_hmac_equal(want, in.hello.hmac))
    return ti_error_set(err, TI_ERR_AUTH, "Hello.hmac: not of this job's secret (rank %u claimed)", in.hello.rank);
  if (in.hello.version != TI_WIRE_VERSION) {
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "Hello.version: rank %u speaks %u, the coordinator %u: start the same build everywhere",
                        in.hello.rank, in.hello.version, TI_WIRE_VERSION);
  }
  if (in.hello.rank != rank) return ti_error_set(err, TI_ERR_AUTH, "Hello.rank: %u came in at the address of rank %u", in.hello.rank, rank);
  *out = in.hello;
  return TI_OK;
}
