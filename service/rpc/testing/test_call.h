// A call as tests write it, and as it looks in both protocols, right or wrong.
#ifndef ATTND_SERVICE_RPC_TESTING_TEST_CALL_H_
#define ATTND_SERVICE_RPC_TESTING_TEST_CALL_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "attnd/v1/operators.pb.h"
#include "inference/grpc_service.pb.h"
#include "kernels/core/attributes.h"
#include "kernels/core/dtype.h"

namespace attnd {

struct TestTensor {
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  std::string data;
};

// Values in row-major order; bytes of their type.
template <typename T>
TestTensor Values(std::vector<int64_t> shape, const std::vector<T>& values) {
  TestTensor tensor{DTypeOf<T>::value, std::move(shape), {}};
  tensor.data.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  return tensor;
}

// Zeros.
TestTensor Zeros(DType dtype, std::vector<int64_t> shape);

// What a tensor's bytes say as floats.
std::vector<float> Floats(const std::string& bytes);

struct TestCall {
  std::string op;
  std::map<std::string, TestTensor> inputs;
  std::map<std::string, AttrValue> attributes;
  std::string kernel;
  std::vector<std::string> outputs;

  v1::EvaluateRequest ToNative() const;
  // Raw contents; lists among the attributes as JSON text.
  inference::ModelInferRequest ToInference() const;
};

// Calls that are right: B=1, T=3, H=2, HK=1, K=4, and zeros but for v, which counts 1, 2, 3, ...
TestCall RecurrenceCall(int64_t tokens = 3);
// B=1, N=4, R=2.
TestCall SelectCall();

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_TESTING_TEST_CALL_H_
