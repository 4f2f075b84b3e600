#include "service/session/requests.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "models/sha256.h"

namespace attnd {
namespace {

absl::Status Bad(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("session: ", what));
}

constexpr uint32_t kMostNewTokens = 1 << 20;
constexpr size_t kMostStops = 16;

}  // namespace

uint64_t HashOf(const google::protobuf::Message& request) {
  const std::unique_ptr<google::protobuf::Message> plain(request.New());
  plain->CopyFrom(request);
  for (const char* name : {"idempotency_key", "from_position"}) {
    if (const auto* field = plain->GetDescriptor()->FindFieldByName(name)) {
      plain->GetReflection()->ClearField(plain.get(), field);
    }
  }
  std::string bytes = plain->GetTypeName();
  {
    google::protobuf::io::StringOutputStream out(&bytes);
    google::protobuf::io::CodedOutputStream coded(&out);
    coded.SetSerializationDeterministic(true);
    plain->SerializeToCodedStream(&coded);
  }
  uint64_t hash = 0;
  std::memcpy(&hash, Sha256(bytes).data(), sizeof(hash));
  return hash;
}

std::string NewSessionId() {
  std::string bits(16, '\0');
  RAND_bytes(reinterpret_cast<unsigned char*>(bits.data()), static_cast<int>(bits.size()));
  return absl::BytesToHexString(bits);
}

absl::Status CheckSessionId(absl::string_view field, absl::string_view id) {
  const auto plain = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
  };
  if (!id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), plain)) {
    return absl::OkStatus();
  }
  return Bad(absl::StrCat(field, ": given \"", absl::CHexEscape(id.substr(0, 140)),
                          "\", expected 1 to 128 of [A-Za-z0-9_.-]"));
}

absl::Status CheckCreate(const v1::CreateSessionRequest& request) {
  if (!request.session().empty()) {
    if (absl::Status s = CheckSessionId("session", request.session()); !s.ok()) return s;
  }
  if (request.model().empty() == request.op().empty()) {
    return Bad(request.model().empty()
                   ? "model: given nothing, expected a model's name, or an operator's id as op"
                   : "model: given beside op, expected one of the two");
  }
  if (request.op().empty() && (request.attributes_size() > 0 || !request.kernel().empty())) {
    return Bad(absl::StrCat(request.kernel().empty() ? "attributes" : "kernel",
                            ": given for a language model, expected none"));
  }
  if (request.attributes_size() > 64) {
    return Bad(
        absl::StrCat("attributes: given ", request.attributes_size(), ", expected at most 64"));
  }
  if (!(request.idle_seconds() >= 0 && request.idle_seconds() <= 1e9)) {
    return Bad(absl::StrCat("idle_seconds: given ", request.idle_seconds(), ", expected 0 to 1e9"));
  }
  if (!request.idempotency_key().empty() && request.session().empty()) {
    return Bad("session: given nothing with an idempotency_key, expected the session's name");
  }
  if (request.labels_size() > 64) {
    return Bad(absl::StrCat("labels: given ", request.labels_size(), ", expected at most 64"));
  }
  return absl::OkStatus();
}

absl::Status CheckDecode(const v1::DecodeRequest& request, int64_t vocab_size) {
  if (request.max_new_tokens() < 1 || request.max_new_tokens() > kMostNewTokens) {
    return Bad(absl::StrCat("max_new_tokens: given ", request.max_new_tokens(), ", expected 1 to ",
                            kMostNewTokens));
  }
  if (static_cast<size_t>(request.stop().sequences_size()) > kMostStops) {
    return Bad(absl::StrCat("stop.sequences: given ", request.stop().sequences_size(),
                            ", expected at most ", kMostStops));
  }
  for (const std::string& stop : request.stop().sequences()) {
    if (stop.empty()) return Bad("stop.sequences: given an empty text");
  }
  for (const uint32_t token : request.stop().tokens()) {
    if (token >= static_cast<uint64_t>(vocab_size)) {
      return Bad(absl::StrCat("stop.tokens: given ", token, ", expected [0, ", vocab_size, ")"));
    }
  }
  if (request.has_from_position() && !request.has_expected_position() &&
      request.idempotency_key().empty()) {
    return Bad(
        "from_position: given without expected_position or idempotency_key, which name the decode");
  }
  return ParamsOf(request.sampling()).Check();
}

absl::Status NoLanguageModel(absl::string_view id, absl::string_view op) {
  return absl::FailedPreconditionError(absl::StrCat("session ", id, ": given one of the operator ",
                                                    op, ", expected one of a language model"));
}

absl::Status HoldsNothing(absl::string_view id) {
  return absl::FailedPreconditionError(
      absl::StrCat("session ", id, ": holds no token to go on from: append one"));
}

absl::StatusOr<std::vector<int32_t>> TokensOf(
    const LoadedModel& model, const google::protobuf::RepeatedField<uint32_t>& tokens,
    const std::string& text) {
  if (tokens.empty() == text.empty()) {
    return Bad(absl::StrCat("tokens: given ", tokens.size(), " tokens and ", text.size(),
                            " bytes of text, expected one of the two"));
  }
  std::vector<int32_t> out(tokens.begin(), tokens.end());
  if (!text.empty()) {
    out = model.tokenizer->Encode(text);
    if (out.empty()) return Bad("text: given no token's worth");
  }
  const int64_t vocab = model.model->config().vocab_size;
  for (const int32_t token : out) {
    if (static_cast<uint32_t>(token) >= static_cast<uint64_t>(vocab)) {
      return Bad(absl::StrCat(text.empty() ? "tokens: given " : "text: given token ",
                              static_cast<uint32_t>(token), ", expected [0, ", vocab, ")"));
    }
  }
  return out;
}

Durability DurabilityOf(v1::SessionDurability durability) {
  switch (durability) {
    case v1::NONE:
      return Durability::kNone;
    case v1::SYNC:
      return Durability::kSync;
    default:
      return Durability::kAsync;
  }
}

models::SamplingParams ParamsOf(const v1::Sampling& sampling) {
  models::SamplingParams params;
  params.temperature = sampling.temperature();
  params.top_k = sampling.top_k();
  params.top_p = sampling.top_p() == 0 ? 1 : sampling.top_p();
  params.min_p = sampling.min_p();
  params.repetition_penalty =
      sampling.repetition_penalty() == 0 ? 1 : sampling.repetition_penalty();
  params.repetition_window = sampling.repetition_window();
  params.top_logprobs = sampling.top_logprobs();
  return params;
}

}  // namespace attnd
