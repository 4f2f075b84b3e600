// For tests of operators' sessions: what clients feed them, and what must come of it.
#ifndef ATTND_SERVICE_SESSION_TESTING_OPERATOR_SESSIONS_H_
#define ATTND_SERVICE_SESSION_TESTING_OPERATOR_SESSIONS_H_

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "service/rpc/testing/direct_engine.h"
#include "service/session/operator_state.h"
#include "service/session/testing/manager_test.h"
#include "service/wire.h"

namespace attnd {

using Outputs = std::map<std::string, std::string>;  // Bytes by name.

class OperatorSessionsTest : public ManagerTest {
 protected:
  OperatorSessionsTest() {
    engine_ = &direct_;
    Restart();
  }

  absl::StatusOr<v1::Session> Make(const std::string& id, const std::string& op = "gla",
                                   v1::SessionDurability durability = v1::ASYNC,
                                   const Attributes& attributes = {}) {
    v1::CreateSessionRequest request;
    request.set_session(id);
    request.set_op(op);
    request.set_durability(durability);
    for (const auto& [name, value] : attributes) {
      ToWire(value, &(*request.mutable_attributes())[name]);
    }
    return Await<v1::Session>([&](auto done) { manager_->Create(request, std::move(done)); });
  }

  // Random inputs of gla, `length` positions long.
  NamedTensors Inputs(int64_t length) {
    NamedTensors inputs;
    const auto add = [&](const char* name, int64_t size, bool decay) {
      std::vector<float> values(static_cast<size_t>(length * 2 * size));
      std::normal_distribution<float> normal;
      for (float& value : values) {
        value = normal(random_);
        if (decay) value = -std::abs(value) / 10;
      }
      inputs.Set(name, HostTensor<float>({1, length, 2, size}, values));
    };
    add("q", 4, false);
    add("k", 4, false);
    add("v", 3, false);
    add("g", 4, true);
    return inputs;
  }

  static v1::AppendRequest AppendOf(const std::string& id, const NamedTensors& inputs) {
    v1::AppendRequest request;
    request.set_session(id);
    ToWire(inputs, *request.mutable_inputs());
    return request;
  }
  absl::StatusOr<v1::AppendResponse> Feed(const v1::AppendRequest& request) {
    return Await<v1::AppendResponse>(
        [&](auto done) { manager_->Append(request, std::move(done)); });
  }
  absl::StatusOr<v1::AppendResponse> Feed(const std::string& id, const NamedTensors& inputs) {
    return Feed(AppendOf(id, inputs));
  }
  static Outputs Bytes(const absl::StatusOr<v1::AppendResponse>& response) {
    EXPECT_TRUE(response.ok()) << response.status();
    Outputs out;
    if (!response.ok()) return out;
    for (const auto& [name, tensor] : response->outputs()) out[name] = tensor.data();
    return out;
  }

  // What the calls give one after another, states handed on by hand.
  std::vector<Outputs> ByHand(const std::string& op, const std::vector<NamedTensors>& appends,
                              const Attributes& attributes = {}) {
    std::vector<Outputs> all;
    const Operator& found = **direct_.registry().Find(op);
    SharedOperatorState state;
    for (const NamedTensors& inputs : appends) {
      EngineCall call;
      call.request.op = op;
      call.request.inputs = inputs;
      call.request.attributes = attributes;
      if (state != nullptr) {
        for (const auto& [name, tensor] : state->tensors) call.request.inputs.Set(name, tensor);
      }
      direct_.Evaluate(std::move(call), [&](absl::StatusOr<EngineResult> result) {
        ASSERT_TRUE(result.ok()) << result.status();
        const NamedTensors& outputs = result->evaluation.outputs;
        state = *StateBehind(found.spec, outputs, 1);
        Outputs& bytes = all.emplace_back();
        for (const auto& [name, tensor] : outputs) {
          if (name.rfind("final_state", 0) == 0) continue;
          bytes[name] = std::string(tensor.data<char>(), static_cast<size_t>(tensor.byte_size()));
        }
      });
    }
    return all;
  }

  absl::StatusOr<v1::Session> Fork(const std::string& id, const std::string& fork,
                                   uint64_t position) {
    v1::ForkRequest request;
    request.set_session(id);
    request.set_new_session(fork);
    request.set_position(position);
    return Await<v1::Session>([&](auto done) { manager_->Fork(request, std::move(done)); });
  }

  DirectEngine direct_{DirectEngine::Catalogue::kAll};
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_TESTING_OPERATOR_SESSIONS_H_
