// The language models of a router's workers on the Open Inference Protocol.
#ifndef ATTND_SERVICE_ROUTER_LANGUAGE_PROXY_H_
#define ATTND_SERVICE_ROUTER_LANGUAGE_PROXY_H_

#include <memory>

#include "service/router/session_workers.h"
#include "service/rpc/language_models.h"

namespace attnd {

// A call of a sequence goes to the worker that has its session, one after another in the order in
// which they came; any other call to one worker after another until one has the model and can be
// reached. What a worker that is lost may have done is not asked of another: that is for the
// client, whose next call looks for the session anew. `workers` must outlive it.
std::unique_ptr<LanguageModels> MakeLanguageProxy(SessionWorkers& workers);

}  // namespace attnd

#endif  // ATTND_SERVICE_ROUTER_LANGUAGE_PROXY_H_
