#include "service/session/session_log.h"

#include <openssl/evp.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace attnd {
namespace {

absl::Status CannotChain(absl::string_view what) {
  return absl::InternalError(absl::StrCat("session log: ", what));
}

std::string Sha256(absl::string_view bytes) {
  std::string hash(32, '\0');
  EVP_Digest(bytes.data(), bytes.size(), reinterpret_cast<unsigned char*>(hash.data()), nullptr,
             EVP_sha256(), nullptr);
  return hash;
}

// The low `bytes` bytes of a number, lowest first.
std::string LittleEndian(uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text.push_back(static_cast<char>(value >> (8 * i) & 0xff));
  return text;
}

// No client's key begins like this: keys are printable.
std::string KeyOf(absl::string_view key, uint64_t position) {
  return key.empty() ? absl::StrCat("\x01", position) : std::string(key);
}

}  // namespace

absl::Status SessionLog::Check(const v1::SessionRecord& record) const {
  const auto stands = [&](uint64_t position) {
    return position == tokens_.size()
               ? absl::OkStatus()
               : CannotChain(absl::StrCat("a change at position ", position, " of ", tokens_.size(),
                                          " tokens"));
  };
  if (record.has_created() != (size_ == 0)) {
    return CannotChain("its first record, and no other, creates the session");
  }
  switch (record.change_case()) {
    case v1::SessionRecord::kCreated:
      return absl::OkStatus();
    case v1::SessionRecord::kAppended:
      return stands(record.appended().position());
    case v1::SessionRecord::kDecodeBegun:
      return stands(record.decode_begun().position());
    case v1::SessionRecord::kSampled:
      if (open_decode() == nullptr) return CannotChain("tokens without a decode");
      return stands(record.sampled().position());
    case v1::SessionRecord::kDecodeEnded:
      if (open_decode() == nullptr) return CannotChain("the end of no decode");
      return stands(record.decode_ended().position());
    case v1::SessionRecord::kRewound:
      if (record.rewound().position() <= tokens_.size()) return absl::OkStatus();
      return CannotChain("a rewind to what never was");
    case v1::SessionRecord::CHANGE_NOT_SET:
      break;
  }
  return CannotChain("a record of a kind that is not known here");
}

absl::Status SessionLog::Apply(const v1::SessionRecord& record) {
  if (absl::Status s = Check(record); !s.ok()) return s;
  const uint64_t begin = tokens_.size();
  int64_t decode = -1;
  switch (record.change_case()) {
    case v1::SessionRecord::kCreated:
      created_ = record.created();
      chain_hash_ = Sha256(LittleEndian(created_.seed(), 8));
      for (const uint32_t token : created_.tokens()) Push(static_cast<int32_t>(token));
      created_.clear_tokens();
      break;
    case v1::SessionRecord::kAppended:
      for (const uint32_t token : record.appended().tokens()) Push(static_cast<int32_t>(token));
      break;
    case v1::SessionRecord::kDecodeBegun:
      decode = static_cast<int64_t>(decodes_.size());
      decodes_.push_back({begin, begin, record.decode_begun(), std::nullopt, {}});
      break;
    case v1::SessionRecord::kSampled: {
      Decode& open = decodes_.back();
      for (const v1::SampledToken& token : record.sampled().tokens()) {
        Push(static_cast<int32_t>(token.token()));
        open.tokens.push_back(token);
      }
      open.end = tokens_.size();
      break;
    }
    case v1::SessionRecord::kDecodeEnded:
      decodes_.back().finish = record.decode_ended().finish();
      break;
    case v1::SessionRecord::kRewound:
      Truncate(record.rewound().position());
      break;
    case v1::SessionRecord::CHANGE_NOT_SET:
      break;
  }
  Remember(record, begin, decode);
  ++size_;
  return absl::OkStatus();
}

void SessionLog::Push(int32_t token) {
  tokens_.push_back(token);
  chain_hash_ = Chain(chain_hash_, token);
}

// What a decode sampled stays known to who asks for it again, although the session has forgotten
// it.
void SessionLog::Truncate(uint64_t position) {
  tokens_.resize(position);
  chain_hash_.clear();
  chain_hash_ = ChainHashAt(position);
  if (!decodes_.empty() && !decodes_.back().finish.has_value()) {
    decodes_.back().finish = v1::CANCELLED_BY_CLIENT;
  }
}

void SessionLog::Remember(const v1::SessionRecord& record, uint64_t begin, int64_t decode) {
  if (record.has_sampled() || record.has_decode_ended()) return;  // Parts of a decode.
  const std::string key = KeyOf(record.idempotency_key(), begin);
  const auto [at, added] = requests_.insert_or_assign(
      key, Request{record.request_hash(), begin, tokens_.size(), decode});
  if (!added) return;
  order_.push_back(key);
  if (order_.size() > kRemembered) {
    requests_.erase(order_.front());
    order_.pop_front();
  }
}

const SessionLog::Decode* SessionLog::open_decode() const {
  return decodes_.empty() || decodes_.back().finish.has_value() ? nullptr : &decodes_.back();
}

const SessionLog::Request* SessionLog::FindRequest(absl::string_view key,
                                                   std::optional<uint64_t> position) const {
  if (key.empty() && !position.has_value()) return nullptr;
  const auto found = requests_.find(KeyOf(key, position.value_or(0)));
  return found == requests_.end() ? nullptr : &found->second;
}

std::string SessionLog::Chain(absl::string_view hash, int32_t token) {
  return Sha256(absl::StrCat(hash, LittleEndian(static_cast<uint32_t>(token), 4)));
}

std::string SessionLog::ChainHashAt(uint64_t position) const {
  if (position == tokens_.size() && !chain_hash_.empty()) return chain_hash_;
  std::string hash = Sha256(LittleEndian(created_.seed(), 8));
  for (uint64_t p = 0; p < position; ++p) hash = Chain(hash, tokens_[p]);
  return hash;
}

}  // namespace attnd
