// What the sanitizers need to know, built into every test that runs under them: no environment to forget.

extern "C" const char* __asan_default_options();
extern "C" const char* __ubsan_default_options();
extern "C" const char* __tsan_default_options();
extern "C" const char* __tsan_default_suppressions();

extern "C" const char* __asan_default_options() { return "detect_leaks=1:detect_stack_use_after_return=1"; }

extern "C" const char* __ubsan_default_options() { return "print_stacktrace=1"; }

// gRPC, protobuf and abseil come without instrumentation; their own locking would be reported by the hundred.
extern "C" const char* __tsan_default_options() { return "ignore_noninstrumented_modules=1"; }

// gRPC hands a call from thread to thread in its libraries, where nobody sees the order; its headers, which our code
// instantiates, then look like races. What our own threads share with each other and with OnCancel is still watched.
extern "C" const char* __tsan_default_suppressions() {
  return "race:grpc::internal::\n"
         "race:grpc::Server::CallbackRequest\n";
}
