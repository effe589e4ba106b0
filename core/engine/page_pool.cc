#include "core/engine/page_pool.h"

#include <algorithm>
#include <cassert>
#include <functional>

namespace automodeld {

PagePool::PagePool(int num_pages) : total_(std::max(0, num_pages - 1)), references_(1) { SetMapped(num_pages); }

void PagePool::SetMapped(int num_pages) {
  const int mapped = std::clamp(num_pages - 1, 0, total_);
  if (mapped < mapped_) {
    std::erase_if(free_, [mapped](PageId page) { return page > mapped; });
    std::make_heap(free_.begin(), free_.end(), std::greater<>());
    assert(std::all_of(references_.begin() + mapped + 1, references_.end(), [](int count) { return count == 0; }));
  }
  for (PageId page = mapped_ + 1; page <= mapped; ++page) {
    free_.push_back(page);
    std::push_heap(free_.begin(), free_.end(), std::greater<>());
  }
  references_.resize(static_cast<size_t>(mapped) + 1);
  mapped_ = mapped;
}

PageId PagePool::Allocate() {
  if (free_.empty()) return kNoPage;
  std::pop_heap(free_.begin(), free_.end(), std::greater<>());
  const PageId page = free_.back();
  free_.pop_back();
  references_[static_cast<size_t>(page)] = 1;
  return page;
}

void PagePool::AddReference(PageId page) {
  assert(page > 0 && references(page) > 0);
  ++references_[static_cast<size_t>(page)];
}

void PagePool::Release(PageId page) {
  assert(page > 0 && references(page) > 0);
  if (--references_[static_cast<size_t>(page)] > 0) return;
  free_.push_back(page);
  std::push_heap(free_.begin(), free_.end(), std::greater<>());
}

}  // namespace automodeld
