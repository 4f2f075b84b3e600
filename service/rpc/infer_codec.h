// Open Inference Protocol requests to calls and back.
#ifndef ATTND_SERVICE_RPC_INFER_CODEC_H_
#define ATTND_SERVICE_RPC_INFER_CODEC_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "inference/grpc_service.pb.h"
#include "kernels/core/registry.h"
#include "service/engine.h"
#include "service/rpc/wire.h"

namespace attnd {

// The one version that every model has, and what runs it.
inline constexpr absl::string_view kModelVersion = "1";
inline constexpr absl::string_view kPlatform = "attnd";

// The operator that a model's name means: its id, or "op." and its id. NOT_FOUND if there is none,
// or not in that version ("" is any).
absl::StatusOr<const Operator*> FindModel(const Registry& registry, absl::string_view name,
                                          absl::string_view version);

// "FP32", "BF16", ...
absl::string_view InferenceTypeName(DType dtype);

struct SequenceStep {
  std::string id;  // Empty: the call belongs to no sequence.
  bool start = false;
  bool end = false;
};

struct InferCall {
  const Operator* op = nullptr;
  EngineCall call;  // The deadline is what `timeout` allows; cancellation is the handler's to set.
  // Outputs that this call does not have, for want of an attribute, are left out of the answer:
  // stock clients ask for whatever ModelMetadata lists.
  std::vector<std::string> wanted;
  std::string model_name;
  std::string id;
  SequenceStep sequence;
};

// The input of that index as a tensor of any type that operators take: a view into `message`.
absl::Status DecodeInput(absl::string_view op,
                         const std::shared_ptr<const inference::ModelInferRequest>& message,
                         int index, NamedTensors& inputs);
// How many inputs and contents there are.
absl::Status CheckInputs(absl::string_view op, const inference::ModelInferRequest& message);
// Parameters of an input or output: UNIMPLEMENTED for shared memory and classification.
absl::Status CheckTensorParameters(
    absl::string_view op, const std::string& tensor,
    const google::protobuf::Map<std::string, inference::InferParameter>& parameters);

// Tensors are views into `message`, which they keep alive. Errors as in codec.h's DecodeCall;
// UNIMPLEMENTED for tensors in shared memory and for classification.
absl::StatusOr<InferCall> DecodeInfer(
    const Registry& registry, const std::shared_ptr<const inference::ModelInferRequest>& message);

// A ModelInferResponse with raw contents.
MessageBuilder EncodeInfer(const InferCall& call, const EngineResult& result,
                           const NamedTensors& outputs, bool streamed);

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_INFER_CODEC_H_
