// Who is at the other end of a control connection: pure functions around three messages. The secret never travels.
//
//   coordinator                              worker
//        | <------------ connects -------------|
//        |--- Challenge {nonce, version} ----->|   ti_handshake_challenge
//        |<-- Hello {rank, HMAC, capacities} --|   ti_handshake_answer      HMAC-SHA256(secret, nonce | rank)
//        |    ti_handshake_verify              |
//        |--- Welcome {epoch, pages} --------->|   (or the connection is dropped)
//
// A nonce serves one connection: a Hello that was overheard is worth nothing on the next one. A peer of another rank than the address it dialled is
// refused, so that a rank cannot be taken twice.
#ifndef TI_PROTO_HANDSHAKE_H
#define TI_PROTO_HANDSHAKE_H
#include "proto/wire.h"

// Coordinator: draws a nonce and appends the Challenge to out. TI_ERR_IO: no random bytes.
ti_status ti_handshake_challenge(uint8_t nonce[TI_NONCE_BYTES], ti_buf *out) TI_MUST_CHECK;
// Worker: answers challenge[n] with *hello, whose hmac and version are filled in here. TI_ERR_UNSUPPORTED: the coordinator speaks another version.
// TI_ERR_FORMAT: no Challenge. arena: scratch.
ti_status ti_handshake_answer(const void *challenge, size_t n, const uint8_t *secret, size_t n_secret, const ti_msg_hello *hello, ti_arena *arena,
                              ti_buf *out, ti_error *err) TI_MUST_CHECK;
// Coordinator: bytes[n] came in at the address of `rank` (below n_rank) as answer to nonce. *out lies in arena.
// TI_ERR_AUTH: wrong HMAC or rank. TI_ERR_UNSUPPORTED: version. TI_ERR_FORMAT, TI_ERR_RANGE: no Hello, or a bad one.
ti_status ti_handshake_verify(const void *bytes, size_t n, const uint8_t *secret, size_t n_secret, const uint8_t nonce[TI_NONCE_BYTES], uint32_t rank,
                              uint32_t n_rank, ti_arena *arena, ti_msg_hello *out, ti_error *err) TI_MUST_CHECK;

#endif
