// What operators' sessions do one after another, whether clients ask for it or states must come
// back.
#ifndef ATTND_SERVICE_SESSION_OPERATOR_STEP_H_
#define ATTND_SERVICE_SESSION_OPERATOR_STEP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "service/engine.h"
#include "service/session/operator_state.h"
#include "service/session/session_manager.h"

namespace attnd {

// A call of an append, between its checks and its answer.
struct SessionManager::OperatorStep {
  CallRequest call;
  SharedOperatorState before;
  uint64_t begin = 0;
  uint64_t length = 0;
  int64_t input_bytes = 0;
  std::vector<std::string> wanted;
  // What came of it.
  Evaluation evaluation;
  SharedOperatorState after;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_OPERATOR_STEP_H_
