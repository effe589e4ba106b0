// The ledger of KV pages: which are free, and how many hold each of the others. It knows numbers, not memory.
//
//   PagePool pool(128);               // pages 1..127; page 0 is scratch and never handed out
//   PageId page = pool.Allocate();    // one reference, or kNoPage
//   pool.Release(page);               // free again
//
// Everything is O(1). Used by the engine thread only.
#ifndef CORE_ENGINE_PAGE_POOL_H_
#define CORE_ENGINE_PAGE_POOL_H_

#include <cstdint>
#include <vector>

#include "core/engine/batch.h"

namespace automodeld {

class PagePool {
 public:
  static constexpr PageId kNoPage = 0;

  // `num_pages` counts the scratch page; 0 makes a pool without pages.
  explicit PagePool(int num_pages);

  PageId Allocate();
  void AddReference(PageId page);  // of a page in use
  void Release(PageId page);       // drops one reference; the last one frees the page

  int total() const { return total_; }  // without the scratch page
  int num_free() const { return static_cast<int>(free_.size()); }
  int used() const { return total_ - num_free(); }
  int references(PageId page) const { return references_[static_cast<size_t>(page)]; }

 private:
  int total_;
  std::vector<PageId> free_;     // a stack: the page freed last is the first to go
  std::vector<int> references_;  // [num_pages]
};

}  // namespace automodeld

#endif  // CORE_ENGINE_PAGE_POOL_H_
