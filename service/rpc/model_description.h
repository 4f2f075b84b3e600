// Schemas as the Open Inference Protocol tells them.
#ifndef ATTND_SERVICE_RPC_MODEL_DESCRIPTION_H_
#define ATTND_SERVICE_RPC_MODEL_DESCRIPTION_H_

#include <string>

#include "absl/time/time.h"
#include "inference/grpc_service.pb.h"
#include "kernels/core/op_spec.h"
#include "service/engine.h"

namespace attnd {

// What the metadata and the configs of all models begin with. `name` as the client gave it.
inference::ModelMetadataResponse BeginMetadata(const std::string& name);
inference::ModelConfig BeginConfig(const std::string& name);
// Says that the model takes sequences, which end by themselves after `idle`.
inference::ModelSequenceBatching& AddSequences(absl::Duration idle, inference::ModelConfig& config);

// `name` as the client gave it. Every size is -1, and `float` ports are FP32: schemas say more than
// this protocol can, and attnd.v1.Operators.Describe tells it all.
inference::ModelMetadataResponse DescribeMetadata(const OpSpec& spec, const std::string& name);

// With sequence_batching where the operator has a state; `sequence_idle` is when a sequence ends by
// itself.
inference::ModelConfig DescribeConfig(const OpSpec& spec, const std::string& name,
                                      absl::Duration sequence_idle);

inference::ModelStatistics DescribeStatistics(const std::string& name,
                                              const Engine::OpStatistics& statistics);

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_MODEL_DESCRIPTION_H_
