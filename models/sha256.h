// SHA-256 of bytes that lie in several places, or come one after another.
#ifndef ATTND_MODELS_SHA256_H_
#define ATTND_MODELS_SHA256_H_

#include <openssl/evp.h>

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace attnd {

// Looked up once: that costs more than hashing some bytes.
inline const EVP_MD* Sha256Method() {
  static const EVP_MD* const method = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  return method;
}

class Sha256Stream {
 public:
  Sha256Stream() { Start(); }
  // Forgets what was added.
  void Start() { EVP_DigestInit_ex(context_.get(), Sha256Method(), nullptr); }
  void Add(absl::string_view bytes) {
    EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size());
  }
  // The 32 bytes of the digest of everything added. Once for each start, and last.
  std::string Finish() {
    std::string digest(32, '\0');
    EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(digest.data()), nullptr);
    return digest;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_{EVP_MD_CTX_new(),
                                                                   EVP_MD_CTX_free};
};

// The 32 bytes of the digest of all parts, one after another.
inline std::string Sha256(absl::Span<const absl::string_view> parts) {
  thread_local Sha256Stream digest;
  digest.Start();
  for (const absl::string_view part : parts) digest.Add(part);
  return digest.Finish();
}

inline std::string Sha256(absl::string_view bytes) { return Sha256({&bytes, 1}); }

}  // namespace attnd

#endif  // ATTND_MODELS_SHA256_H_
