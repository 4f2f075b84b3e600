// SHA-256 of bytes that lie in several places.
#ifndef ATTND_SERVICE_SESSION_SHA256_H_
#define ATTND_SERVICE_SESSION_SHA256_H_

#include <openssl/evp.h>

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace attnd {

// The 32 bytes of the digest of all parts, one after another.
inline std::string Sha256(absl::Span<const absl::string_view> parts) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> digest(EVP_MD_CTX_new(),
                                                                       EVP_MD_CTX_free);
  EVP_DigestInit_ex(digest.get(), EVP_sha256(), nullptr);
  for (const absl::string_view part : parts)
    EVP_DigestUpdate(digest.get(), part.data(), part.size());
  std::string bytes(32, '\0');
  EVP_DigestFinal_ex(digest.get(), reinterpret_cast<unsigned char*>(bytes.data()), nullptr);
  return bytes;
}

inline std::string Sha256(absl::string_view bytes) { return Sha256({&bytes, 1}); }

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_SHA256_H_
