#include "core/engine/page_pool.h"

#include <algorithm>
#include <cassert>

namespace automodeld {

PagePool::PagePool(int num_pages)
    : total_(std::max(0, num_pages - 1)), references_(static_cast<size_t>(std::max(1, num_pages))) {
  free_.reserve(static_cast<size_t>(total_));
  for (PageId page = total_; page > 0; --page) free_.push_back(page);
}

PageId PagePool::Allocate() {
  if (free_.empty()) return kNoPage;
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
  if (--references_[static_cast<size_t>(page)] == 0) free_.push_back(page);
}

}  // namespace automodeld
