// What the handshake rests on: HMAC-SHA256 (from mbedcrypto, which NNG's TLS links anyway) and the kernel's random bytes. Any thread.
#include <errno.h>
#include <mbedtls/md.h>
#include <string.h>
#include <sys/random.h>

#include "proto/wire.h"

void ti_wire_hmac(const uint8_t *secret, size_t n, const uint8_t nonce[TI_NONCE_BYTES], uint32_t rank, uint8_t out[TI_HMAC_BYTES]) {
  uint8_t text[TI_NONCE_BYTES + 4];
  memcpy(text, nonce, TI_NONCE_BYTES);
  for (int i = 0; i < 4; i++) text[TI_NONCE_BYTES + i] = (uint8_t)(rank >> (8 * i));
  if (mbedtls_md_hmac(mbedtls_md_info_from_type(MBEDTLS_MD_SHA256), secret, n, text, sizeof text, out) == 0) return;
  // Out of memory: an answer that fails its comparison, and is none that a peer could foresee.
  if (getrandom(out, TI_HMAC_BYTES, 0) != TI_HMAC_BYTES) memset(out, 0xff, TI_HMAC_BYTES);
}

bool ti_wire_hmac_equal(const uint8_t a[TI_HMAC_BYTES], const uint8_t b[TI_HMAC_BYTES]) {
  volatile uint8_t differ = 0;
  for (size_t i = 0; i < TI_HMAC_BYTES; i++) differ |= (uint8_t)(a[i] ^ b[i]);
  return differ == 0;
}

ti_status ti_wire_random(void *out, size_t n) {
  uint8_t *p = out;
  while (n > 0) {
    const ssize_t got = getrandom(p, n, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return TI_ERR_IO;
    p += got;
    n -= (size_t)got;
  }
  return TI_OK;
}
