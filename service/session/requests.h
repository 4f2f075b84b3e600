// What session requests say, checked and in the terms of sessions.
#ifndef ATTND_SERVICE_SESSION_REQUESTS_H_
#define ATTND_SERVICE_SESSION_REQUESTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "attnd/v1/sessions.pb.h"
#include "google/protobuf/message.h"
#include "models/sampler.h"
#include "service/session/model_table.h"
#include "service/session/session_store.h"

namespace attnd {

// Of everything in a request but its idempotency key and where its stream begins: requests with
// equal hashes ask for the same.
uint64_t HashOf(const google::protobuf::Message& request);

// 128 random bits in hex.
std::string NewSessionId();

// INVALID_ARGUMENT naming the field, what was given and what is expected.
absl::Status CheckSessionId(absl::string_view field, absl::string_view id);
absl::Status CheckCreate(const v1::CreateSessionRequest& request);
absl::Status CheckDecode(const v1::DecodeRequest& request, int64_t vocab_size);

// Of an operator's session, where tokens are sampled.
absl::Status NoLanguageModel(absl::string_view id, absl::string_view op);

// Of a session without a token, where one must be to go on from.
absl::Status HoldsNothing(absl::string_view id);

// Given tokens, or text's. At least one.
absl::StatusOr<std::vector<int32_t>> TokensOf(
    const LoadedModel& model, const google::protobuf::RepeatedField<uint32_t>& tokens,
    const std::string& text);

Durability DurabilityOf(v1::SessionDurability durability);

// Zeros of the wire mean what is usual.
models::SamplingParams ParamsOf(const v1::Sampling& sampling);

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_REQUESTS_H_
