// The calls that loads are made of: evaluations, and echoes of as many bytes.
#ifndef ATTND_BENCH_CALLS_H_
#define ATTND_BENCH_CALLS_H_

#include <grpcpp/channel.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "attnd/v1/operators.grpc.pb.h"
#include "bench/echo.grpc.pb.h"
#include "bench/load.h"

namespace attnd::bench {

// A connection of its own for every channel, so that two servers under test share nothing.
std::shared_ptr<grpc::Channel> Connect(const std::string& target);

// float32, normally distributed.
v1::Tensor RandomTensor(std::vector<int64_t> shape);

// softmax_attention on [1,16,2,16].
v1::EvaluateRequest SmallRequest();

StartCall EvaluateCalls(const std::string& target, const v1::EvaluateRequest& request);
// Each a unary call of its own.
StartCall EchoCalls(const std::string& target, const std::string& bytes);
// All on one stream, one after another: the next may start when the last has called back.
StartCall EchoStreamCalls(const std::string& target, const std::string& bytes);

}  // namespace attnd::bench

#endif  // ATTND_BENCH_CALLS_H_
