// Tells ThreadSanitizer of the order that gRPC makes: what happened before an operation was started
// happened before its end is told, and what a call left behind before its memory serves another and
// before its server has ended.
// Debian's gRPC is not instrumented, and its threads hand operations over without locks.
#include <grpc/grpc.h>
#include <grpcpp/server.h>
#include <grpcpp/support/server_callback.h>
#include <sanitizer/tsan_interface.h>

#include <atomic>

#include "tests/sanitizers/next.h"

namespace {

// Memory of calls that have ended.
char freed;

grpc_event Told(grpc_event event) {
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(event.tag);
  return event;
}

}  // namespace

extern "C" {

grpc_call_error grpc_call_start_batch(grpc_call* call, const grpc_op* ops, size_t count, void* tag,
                                      void* reserved) {
  ATTND_NEXT(next, decltype(&grpc_call_start_batch), "grpc_call_start_batch");
  __tsan_release(tag);
  return next(call, ops, count, tag, reserved);
}

grpc_event grpc_completion_queue_next(grpc_completion_queue* queue, gpr_timespec deadline,
                                      void* reserved) {
  ATTND_NEXT(next, decltype(&grpc_completion_queue_next), "grpc_completion_queue_next");
  return Told(next(queue, deadline, reserved));
}

grpc_event grpc_completion_queue_pluck(grpc_completion_queue* queue, void* tag,
                                       gpr_timespec deadline, void* reserved) {
  ATTND_NEXT(next, decltype(&grpc_completion_queue_pluck), "grpc_completion_queue_pluck");
  return Told(next(queue, tag, deadline, reserved));
}

void grpc_call_unref(grpc_call* call) {
  ATTND_NEXT(next, decltype(&grpc_call_unref), "grpc_call_unref");
  __tsan_release(&freed);
  next(call);
}

void* grpc_call_arena_alloc(grpc_call* call, size_t size) {
  ATTND_NEXT(next, decltype(&grpc_call_arena_alloc), "grpc_call_arena_alloc");
  void* const memory = next(call, size);
  __tsan_acquire(&freed);
  return memory;
}

}  // extern "C"

namespace grpc::internal {

// The last of a call's reactions may end in the library, whose countdown is not seen; ours is. The
// counter is the second member, after another of its type.
void ServerCallbackCall::ScheduleOnDone(bool inline_ondone) {
  ATTND_NEXT(next, void (*)(ServerCallbackCall*, bool),
             "_ZN4grpc8internal18ServerCallbackCall14ScheduleOnDoneEb");
  __tsan_acquire(reinterpret_cast<char*>(this) + sizeof(void*) + sizeof(std::atomic_int));
  next(this, inline_ondone);
}

}  // namespace grpc::internal

namespace grpc {

// Waits until every call has left the server.
void Server::ShutdownInternal(gpr_timespec deadline) {
  ATTND_NEXT(next, void (*)(Server*, gpr_timespec),
             "_ZN4grpc6Server16ShutdownInternalE12gpr_timespec");
  next(this, deadline);
  __tsan_acquire(&freed);
}

}  // namespace grpc
