// The definitions of this folder are linked before every library, so that they are found first;
// they call those that they stand before.
#ifndef ATTND_TESTS_SANITIZERS_NEXT_H_
#define ATTND_TESTS_SANITIZERS_NEXT_H_

#include <dlfcn.h>

template <typename F>
F Next(const char* symbol) {
  return reinterpret_cast<F>(dlsym(RTLD_NEXT, symbol));
}

#define ATTND_NEXT(name, signature, symbol) static const auto name = Next<signature>(symbol)

#endif  // ATTND_TESTS_SANITIZERS_NEXT_H_
