#include "service/rpc/model_description.h"

#include "absl/strings/str_cat.h"
#include "service/rpc/infer_codec.h"

namespace attnd {
namespace {

// The type that stock clients are told for a port: they know one type for each tensor.
DType AnnouncedType(const OpSpec& spec, const Port& port) {
  switch (port.type) {
    case PortType::kFloat:
    case PortType::kFloat32:
      return DType::kFloat32;
    case PortType::kInt: {
      // Either type is taken. A state is announced in the type in which it comes back.
      const Port* final_state = spec.FindOutput(FinalStateName(port.name));
      return final_state != nullptr && final_state->type == PortType::kInt64 ? DType::kInt64
                                                                             : DType::kInt32;
    }
    case PortType::kInt32:
      return DType::kInt32;
    case PortType::kInt64:
      return DType::kInt64;
    case PortType::kBool:
      return DType::kBool;
  }
  return DType::kFloat32;
}

inference::DataType ConfigType(const OpSpec& spec, const Port& port) {
  switch (AnnouncedType(spec, port)) {
    case DType::kInt32:
      return inference::TYPE_INT32;
    case DType::kInt64:
      return inference::TYPE_INT64;
    case DType::kBool:
      return inference::TYPE_BOOL;
    default:
      return inference::TYPE_FP32;
  }
}

// -1 for every axis of the port's first shape.
template <typename Sizes>
void FillSizes(const Port& port, Sizes* sizes) {
  for (size_t i = 0; i < port.shapes[0].size(); ++i) sizes->Add(-1);
}

template <typename Wire>
void FillMetadata(const OpSpec& spec, const Port& port, Wire* wire) {
  wire->set_name(port.name);
  wire->set_datatype(std::string(InferenceTypeName(AnnouncedType(spec, port))));
  FillSizes(port, wire->mutable_shape());
}

template <typename Wire>
void FillConfig(const OpSpec& spec, const Port& port, Wire* wire) {
  wire->set_name(port.name);
  wire->set_data_type(ConfigType(spec, port));
  FillSizes(port, wire->mutable_dims());
}

void FillDuration(uint64_t count, uint64_t ns, inference::StatisticDuration* wire) {
  wire->set_count(count);
  wire->set_ns(ns);
}

}  // namespace

inference::ModelMetadataResponse BeginMetadata(const std::string& name) {
  inference::ModelMetadataResponse wire;
  wire.set_name(name);
  wire.add_versions(std::string(kModelVersion));
  wire.set_platform(std::string(kPlatform));
  return wire;
}

inference::ModelConfig BeginConfig(const std::string& name) {
  inference::ModelConfig wire;
  wire.set_name(name);
  wire.set_platform(std::string(kPlatform));
  wire.set_backend(std::string(kPlatform));
  wire.mutable_version_policy()->mutable_latest()->set_num_versions(1);
  wire.mutable_model_transaction_policy()->set_decoupled(false);
  return wire;
}

inference::ModelSequenceBatching& AddSequences(absl::Duration idle,
                                               inference::ModelConfig& config) {
  inference::ModelSequenceBatching& sequences = *config.mutable_sequence_batching();
  sequences.mutable_direct();
  sequences.set_max_sequence_idle_microseconds(
      static_cast<uint64_t>(absl::ToInt64Microseconds(idle)));
  return sequences;
}

inference::ModelMetadataResponse DescribeMetadata(const OpSpec& spec, const std::string& name) {
  inference::ModelMetadataResponse wire = BeginMetadata(name);
  for (const Port& port : spec.inputs()) FillMetadata(spec, port, wire.add_inputs());
  for (const Port& port : spec.outputs()) FillMetadata(spec, port, wire.add_outputs());
  return wire;
}

inference::ModelConfig DescribeConfig(const OpSpec& spec, const std::string& name,
                                      absl::Duration sequence_idle) {
  inference::ModelConfig wire = BeginConfig(name);
  for (const Port& port : spec.inputs()) {
    inference::ModelInput& input = *wire.add_input();
    FillConfig(spec, port, &input);
    input.set_optional(port.optional || port.condition.has_value());
  }
  for (const Port& port : spec.outputs()) FillConfig(spec, port, wire.add_output());
  for (const AttrSpec& attribute : spec.attributes()) {
    (*wire.mutable_parameters())[absl::StrCat("attribute.", attribute.name)].set_string_value(
        attribute.text);
  }
  if (!spec.has_state()) return wire;
  inference::ModelSequenceBatching& sequences = AddSequences(sequence_idle, wire);
  for (const Port& port : spec.inputs()) {
    if (FinalStateName(port.name).empty()) continue;
    inference::ModelSequenceBatching::State& state = *sequences.add_state();
    state.set_input_name(port.name);
    state.set_output_name(FinalStateName(port.name));
    state.set_data_type(ConfigType(spec, port));
    FillSizes(port, state.mutable_dims());
  }
  return wire;
}

inference::ModelStatistics DescribeStatistics(const std::string& name,
                                              const Engine::OpStatistics& statistics) {
  inference::ModelStatistics wire;
  wire.set_name(name);
  wire.set_version(std::string(kModelVersion));
  wire.set_last_inference(static_cast<uint64_t>(absl::ToUnixMillis(statistics.last_inference)));
  wire.set_inference_count(statistics.inference_count);
  wire.set_execution_count(statistics.execution_count);
  inference::InferStatistics& infer = *wire.mutable_inference_stats();
  const uint64_t count = statistics.success_count;
  FillDuration(count, statistics.success_ns, infer.mutable_success());
  FillDuration(statistics.fail_count, statistics.fail_ns, infer.mutable_fail());
  FillDuration(count, statistics.queue_ns, infer.mutable_queue());
  FillDuration(count, 0, infer.mutable_compute_input());
  FillDuration(count, statistics.compute_ns, infer.mutable_compute_infer());
  FillDuration(count, 0, infer.mutable_compute_output());
  for (const auto& [size, launches] : statistics.launches) {
    inference::InferBatchStatistics& batch = *wire.add_batch_stats();
    batch.set_batch_size(size);
    FillDuration(launches.count, 0, batch.mutable_compute_input());
    FillDuration(launches.count, launches.compute_ns, batch.mutable_compute_infer());
    FillDuration(launches.count, 0, batch.mutable_compute_output());
  }
  return wire;
}

}  // namespace attnd
