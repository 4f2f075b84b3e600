// write_seeds DIRECTORY: every operator's schema, one right request for each in both protocols, and
// a chunk.
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "attnd/v1/operators.pb.h"
#include "inference/grpc_service.pb.h"
#include "kernels/core/random_call.h"
#include "service/rpc/testing/test_call.h"
#include "tests/fuzz/fuzz_registry.h"

namespace {

void Write(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

attnd::TestCall ToTestCall(const attnd::CallRequest& request) {
  attnd::TestCall call;
  call.op = request.op;
  for (const auto& [name, tensor] : request.inputs) {
    const auto& shape = tensor.shape();
    call.inputs[name] = {tensor.dtype(),
                         {shape.begin(), shape.end()},
                         {tensor.data<char>(), static_cast<size_t>(tensor.byte_size())}};
  }
  for (const auto& [name, value] : request.attributes) call.attributes[name] = value;
  return call;
}

// A schema in the form that schema_fuzz reads.
std::string ToScript(const attnd::SchemaText& text) {
  std::string script;
  const auto add = [&script](char what, const std::vector<std::string>& lines) {
    for (const std::string& line : lines)
      absl::StrAppend(&script, std::string(1, what), " ", line, "\n");
  };
  add('i', text.inputs);
  add('a', text.attributes);
  add('d', text.derived);
  add('r', text.rules);
  add('o', text.outputs);
  add('z', {text.may_be_zero});
  if (text.packed_by_sequence) add('p', {"1"});
  return script;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: write_seeds DIRECTORY\n";
    return 2;
  }
  const std::filesystem::path root = argv[1];
  for (const attnd::Operator* op : attnd::FuzzRegistry().operators()) {
    Write(root / "schema" / op->spec.id(), ToScript(op->spec.text()));
    attnd::RandomOptions options;
    options.random_attributes = true;
    options.packed = op->spec.packs();
    for (const char* symbol : {"T", "H", "HK", "HV", "K", "V"}) options.dims.Set(symbol, 2);
    absl::StatusOr<attnd::CallRequest> request = attnd::RandomCall(*op, options);
    if (!request.ok()) {  // Not every operator has all of these sizes.
      options.dims = {};
      request = attnd::RandomCall(*op, options);
    }
    if (!request.ok()) {
      std::cerr << op->spec.id() << ": " << request.status() << "\n";
      return 1;
    }
    const attnd::TestCall call = ToTestCall(*request);
    Write(root / "evaluate_request" / op->spec.id(), call.ToNative().SerializeAsString());
    Write(root / "infer_request" / op->spec.id(), call.ToInference().SerializeAsString());
  }
  attnd::v1::EvaluateChunk chunk;
  chunk.mutable_data()->set_tensor("q");
  chunk.mutable_data()->set_offset(300);
  chunk.mutable_data()->set_bytes(std::string(50, 'x'));
  Write(root / "evaluate_chunk" / "data", '\7' + chunk.SerializeAsString());
  return 0;
}
