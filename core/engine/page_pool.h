// The ledger of KV pages: which are free, and how many hold each of the others. It knows numbers, not memory.
//
//   PagePool pool(128);               // pages 1..127; page 0 is scratch and never handed out
//   pool.SetMapped(64);               // only pages 1..63 have memory so far
//   PageId page = pool.Allocate();    // one reference to the lowest page that is free, or kNoPage
//   pool.Release(page);               // free again
//
// Low pages go first, so that the highest stay free and their memory can be given back. O(log pages); SetMapped is
// linear in the pages that come or stay free. Used by the engine thread only.
#ifndef CORE_ENGINE_PAGE_POOL_H_
#define CORE_ENGINE_PAGE_POOL_H_

#include <cstdint>
#include <vector>

#include "core/engine/batch.h"

namespace automodeld {

class PagePool {
 public:
  static constexpr PageId kNoPage = 0;

  // `num_pages` counts the scratch page; 0 makes a pool without pages. All are mapped.
  explicit PagePool(int num_pages);

  // Pages below `num_pages`, at most those there are, may be handed out. Those in use must be below.
  void SetMapped(int num_pages);

  PageId Allocate();
  void AddReference(PageId page);  // of a page in use
  void Release(PageId page);       // drops one reference; the last one frees the page

  int total() const { return total_; }    // without the scratch page, as all these
  int mapped() const { return mapped_; }  // have memory: free or in use
  int num_free() const { return static_cast<int>(free_.size()); }
  int used() const { return mapped_ - num_free(); }
  int references(PageId page) const { return references_[static_cast<size_t>(page)]; }

 private:
  int total_;
  int mapped_ = 0;
  std::vector<PageId> free_;     // a heap, the lowest on top
  std::vector<int> references_;  // [mapped + 1]
};

}  // namespace automodeld

#endif  // CORE_ENGINE_PAGE_POOL_H_
