#include "service/session/session_log.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/sha256.h"
#include "service/session/operator_state.h"

namespace attnd {
namespace {

absl::Status CannotChain(absl::string_view what) {
  return absl::InternalError(absl::StrCat("session log: ", what));
}

// The low `bytes` bytes of a number, lowest first.
std::string LittleEndian(uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text.push_back(static_cast<char>(value >> (8 * i) & 0xff));
  return text;
}

}  // namespace

absl::Status SessionLog::Check(const v1::SessionRecord& record) const {
  const auto stands = [&](uint64_t position) {
    return position == this->position()
               ? absl::OkStatus()
               : CannotChain(absl::StrCat("a change at position ", position, " of ",
                                          this->position(), " positions"));
  };
  if (record.has_trimmed()) {
    if (size_ == 0 || (is_operator() && record.trimmed().size() == size_)) return absl::OkStatus();
    return CannotChain("a trimmed log's first record in the middle of another");
  }
  if (record.has_created() != (size_ == 0)) {
    return CannotChain("its first record, and no other, creates the session");
  }
  const bool of_tokens = record.has_appended() || record.has_decode_begun() ||
                         record.has_sampled() || record.has_decode_ended();
  if (size_ > 0 && (is_operator() ? of_tokens : record.has_fed())) {
    return CannotChain("a record of another kind of session");
  }
  switch (record.change_case()) {
    case v1::SessionRecord::kCreated:
      return absl::OkStatus();
    case v1::SessionRecord::kFed:
      return stands(record.fed().position());
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
      if (CheckRetained(record.rewound().position()).ok()) return absl::OkStatus();
      return CannotChain("a rewind to what never was");
    case v1::SessionRecord::kSnapshotted:
      if (snapshots_.count(record.snapshotted().snapshot()) > 0) {
        return CannotChain("a snapshot of a name that is taken");
      }
      if (CheckRetained(record.snapshotted().position()).ok()) return absl::OkStatus();
      return CannotChain("a snapshot of what never was");
    case v1::SessionRecord::kRestored:
      if (snapshots_.count(record.restored().snapshot()) > 0) return absl::OkStatus();
      return CannotChain("the way back to a snapshot that is not there");
    case v1::SessionRecord::kSnapshotDropped:
    case v1::SessionRecord::kTrimmed:
      return absl::OkStatus();
    case v1::SessionRecord::CHANGE_NOT_SET:
      break;
  }
  return CannotChain("a record of a kind that is not known here");
}

absl::Status SessionLog::CheckRetained(uint64_t position) const {
  if (position > this->position()) {
    return absl::OutOfRangeError(
        absl::StrCat("position: given ", position, ", the session stands at ", this->position()));
  }
  if (!is_operator() || path_.HasEnd(position)) return absl::OkStatus();
  if (position < path_.base()) {
    return absl::OutOfRangeError(absl::StrCat("position: given ", position,
                                              ", the session's history begins at ", path_.base(),
                                              ": the nearest are ", path_.EndsFromBase()));
  }
  return absl::OutOfRangeError(absl::StrCat(
      "position: given ", position, ", expected one where an append ended: the nearest are ",
      path_.EndsAround(position)));
}

// With the tokens that the session was created with.
void SessionLog::Begin(const SessionLog* parent) {
  const auto& tokens = created_.tokens();
  const auto count = static_cast<uint64_t>(tokens.size());
  const auto same = [](uint32_t a, int32_t b) { return static_cast<int32_t>(a) == b; };
  if (parent != nullptr && parent->created_.seed() == created_.seed() &&
      count <= parent->tokens_.size() &&
      std::equal(tokens.begin(), tokens.end(), parent->tokens_.begin(), same)) {
    tokens_.assign(tokens.begin(), tokens.end());
    chain_hash_ = parent->ChainHashAt(count);
    marks_.assign(parent->marks_.begin(),
                  parent->marks_.begin() + static_cast<int64_t>(count / kMarkEvery + 1));
    return;
  }
  chain_hash_ = ChainHashOf(created_.seed(), {});
  marks_ = {chain_hash_};
  for (const uint32_t token : tokens) Push(static_cast<int32_t>(token));
}

absl::Status SessionLog::Apply(const v1::SessionRecord& record, const SessionLog* parent) {
  if (absl::Status s = Check(record); !s.ok()) return s;
  if (record.has_trimmed()) {
    ApplyTrimmed(record);
    return absl::OkStatus();
  }
  const uint64_t begin = position();
  int64_t decode = -1;
  switch (record.change_case()) {
    case v1::SessionRecord::kCreated:
      created_ = record.created();
      Begin(parent);
      created_.clear_tokens();
      if (is_operator()) {
        path_ = created_.has_state() ? InputPath(created_.state().position(), created_.begin_hash())
                                     : InputPath(0, chain_hash_);
        created_.clear_state();
      }
      break;
    case v1::SessionRecord::kFed:
      path_.Push(record.fed().length(), size_, DigestOf(record.fed().inputs()), log_bytes_);
      break;
    case v1::SessionRecord::kAppended:
      for (const uint32_t token : record.appended().tokens()) Push(static_cast<int32_t>(token));
      break;
    case v1::SessionRecord::kDecodeBegun:
      decode = static_cast<int64_t>(decodes_.size());
      decodes_.push_back({begin, begin, chain_hash_, record.decode_begun(), std::nullopt, {}});
      break;
    case v1::SessionRecord::kSampled: {
      Decode& open = decodes_.back();
      for (const v1::SampledToken& token : record.sampled().tokens()) {
        Push(static_cast<int32_t>(token.token()));
        open.tokens.push_back(token);
        ++sampled_;
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
    case v1::SessionRecord::kSnapshotted: {
      const uint64_t position = record.snapshotted().position();
      if (is_operator()) {
        auto path = std::make_shared<InputPath>(path_);
        path->Truncate(position);
        snapshots_[record.snapshotted().snapshot()] = {nullptr, path->hash(), path};
        break;
      }
      snapshots_[record.snapshotted().snapshot()] = {
          std::make_shared<const std::vector<int32_t>>(
              tokens_.begin(), tokens_.begin() + static_cast<int64_t>(position)),
          ChainHashAt(position)};
      break;
    }
    case v1::SessionRecord::kRestored: {
      const Snapshot snapshot = snapshots_.find(record.restored().snapshot())->second;
      const uint64_t common = CommonWith(snapshot);
      Truncate(common);
      if (is_operator()) {
        path_ = *snapshot.path;
        break;
      }
      for (uint64_t p = common; p < snapshot.position(); ++p) Push((*snapshot.tokens)[p]);
      break;
    }
    case v1::SessionRecord::kSnapshotDropped:
      snapshots_.erase(record.snapshot_dropped().snapshot());
      break;
    case v1::SessionRecord::kTrimmed:
    case v1::SessionRecord::CHANGE_NOT_SET:
      break;
  }
  Remember(record, begin, decode);
  ++size_;
  if (is_operator() && !record.has_created()) log_bytes_ += record.ByteSizeLong();
  return absl::OkStatus();
}

int64_t SessionLog::byte_size() const {
  // Measured: a session without tokens, a decode without tokens, a remembered request.
  constexpr size_t kSession = 4096, kDecode = 512, kRequest = 256;
  constexpr size_t kStep = sizeof(InputPath::Step) + 32;  // Its hash.
  return static_cast<int64_t>(kSession + tokens_.capacity() * sizeof(int32_t) +
                              path_.steps().size() * kStep + decodes_.size() * kDecode +
                              sampled_ * sizeof(v1::SampledToken) +
                              (keyed_.size() + unkeyed_.size()) * kRequest);
}

void SessionLog::Push(int32_t token) {
  tokens_.push_back(token);
  chain_hash_ = Chain(chain_hash_, token);
  if (tokens_.size() % kMarkEvery == 0) marks_.push_back(chain_hash_);
}

void SessionLog::Truncate(uint64_t position) {
  if (is_operator()) {
    path_.Truncate(position);
  } else {
    chain_hash_ = ChainHashAt(position);
    tokens_.resize(position);
    marks_.resize(position / kMarkEvery + 1);
  }
  unkeyed_.erase(unkeyed_.lower_bound(position), unkeyed_.end());
  EndOpenDecode();
}

// What a decode sampled stays known to who asks for it again, although the session has forgotten
// it.
void SessionLog::EndOpenDecode() {
  if (!decodes_.empty() && !decodes_.back().finish.has_value()) {
    decodes_.back().finish = v1::CANCELLED_BY_CLIENT;
  }
}

uint64_t SessionLog::CommonWith(const Snapshot& snapshot) const {
  if (is_operator()) return path_.CommonWith(*snapshot.path);
  const auto [own, other] = std::mismatch(tokens_.begin(), tokens_.end(), snapshot.tokens->begin(),
                                          snapshot.tokens->end());
  return static_cast<uint64_t>(own - tokens_.begin());
}

void SessionLog::Remember(const v1::SessionRecord& record, uint64_t begin, int64_t decode) {
  if (record.has_sampled() || record.has_decode_ended()) return;  // Parts of a decode.
  const Request request{record.request_hash(), begin, position(), decode};
  if (record.has_created()) {
    creation_ = request;
    creation_key_ = record.idempotency_key();
    return;
  }
  const std::string& key = record.idempotency_key();
  // A snapshot moves nothing, and is known by its name.
  if (!record.has_snapshotted() && !record.has_snapshot_dropped()) {
    unkeyed_.erase(unkeyed_.lower_bound(begin), unkeyed_.end());
    if (key.empty()) unkeyed_[begin] = request;
    if (unkeyed_.size() > kRemembered) unkeyed_.erase(unkeyed_.begin());
  }
  if (key.empty()) return;
  const auto [at, added] = keyed_.insert_or_assign(key, request);
  if (!added) return;
  order_.push_back(key);
  if (order_.size() > kRemembered) {
    keyed_.erase(order_.front());
    order_.pop_front();
  }
}

const SessionLog::Decode* SessionLog::open_decode() const {
  return decodes_.empty() || decodes_.back().finish.has_value() ? nullptr : &decodes_.back();
}

const SessionLog::Request* SessionLog::FindRequest(absl::string_view key,
                                                   std::optional<uint64_t> position) const {
  if (!key.empty()) {
    const auto found = keyed_.find(key);
    return found == keyed_.end() ? nullptr : &found->second;
  }
  const auto found = position.has_value() ? unkeyed_.find(*position) : unkeyed_.end();
  return found == unkeyed_.end() ? nullptr : &found->second;
}

std::string SessionLog::Chain(absl::string_view hash, int32_t token) {
  return Sha256(absl::StrCat(hash, LittleEndian(static_cast<uint32_t>(token), 4)));
}

std::string SessionLog::ChainHashAt(uint64_t position) const {
  if (is_operator()) return path_.HashAt(position);
  if (position == tokens_.size()) return chain_hash_;
  const uint64_t mark = position / kMarkEvery;
  std::string hash = marks_[mark];
  for (uint64_t p = mark * kMarkEvery; p < position; ++p) hash = Chain(hash, tokens_[p]);
  return hash;
}

std::string SessionLog::ChainHashOf(uint64_t seed, absl::Span<const int32_t> tokens) {
  std::string hash = Sha256(LittleEndian(seed, 8));
  for (const int32_t token : tokens) hash = Chain(hash, token);
  return hash;
}

std::string SessionLog::ChainHashOf(const Snapshot& snapshot, uint64_t position) const {
  if (is_operator()) return snapshot.path->HashAt(position);
  const uint64_t common = std::min(CommonWith(snapshot), position);
  std::string hash = ChainHashAt(common);
  for (uint64_t p = common; p < position; ++p) hash = Chain(hash, (*snapshot.tokens)[p]);
  return hash;
}

}  // namespace attnd
