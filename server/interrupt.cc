#include "server/interrupt.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>

namespace automodeld {

Interrupt::Interrupt() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, &before_);
  signals_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  end_ = eventfd(0, EFD_CLOEXEC);
  watcher_ = std::thread([this] { Watch(); });
}

Interrupt::~Interrupt() {
  eventfd_write(end_, 1);
  watcher_.join();
  close(signals_);
  close(end_);
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

Interrupt::Scope Interrupt::Cancels(grpc::ClientContext* context) {
  const std::lock_guard lock(mutex_);
  contexts_.insert(context);
  if (seen_) context->TryCancel();
  return Scope(context, Forget{this});
}

void Interrupt::Remove(grpc::ClientContext* context) {
  const std::lock_guard lock(mutex_);
  contexts_.erase(context);
}

void Interrupt::Watch() {
  std::array<pollfd, 2> files{{{end_, POLLIN, 0}, {signals_, POLLIN, 0}}};
  while (poll(files.data(), files.size(), -1) < 0 || files[0].revents == 0) {
    signalfd_siginfo info;
    if (read(signals_, &info, sizeof(info)) != sizeof(info)) continue;
    const std::lock_guard lock(mutex_);
    seen_ = true;
    for (grpc::ClientContext* context : contexts_) context->TryCancel();
  }
}

}  // namespace automodeld
