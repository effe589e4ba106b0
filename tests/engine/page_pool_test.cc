#include "core/engine/page_pool.h"

#include <gtest/gtest.h>

#include <set>

namespace automodeld {
namespace {

TEST(PagePool, HandsOutEveryPageButTheScratchPageOnce) {
  PagePool pool(5);
  std::set<PageId> pages;
  for (int i = 0; i < 4; ++i) pages.insert(pool.Allocate());
  EXPECT_EQ(pages, (std::set<PageId>{1, 2, 3, 4}));
  EXPECT_EQ(pool.Allocate(), PagePool::kNoPage);
  EXPECT_EQ(pool.used(), 4);
}

TEST(PagePool, PageIsFreeOnlyAfterItsLastReference) {
  PagePool pool(2);
  const PageId page = pool.Allocate();
  pool.AddReference(page);
  pool.Release(page);
  EXPECT_EQ(pool.used(), 1);
  EXPECT_EQ(pool.Allocate(), PagePool::kNoPage);
  pool.Release(page);
  EXPECT_EQ(pool.used(), 0);
  EXPECT_EQ(pool.Allocate(), page);
}

TEST(PagePool, WithoutPagesNothingIsHandedOut) {
  PagePool pool(0);
  EXPECT_EQ(pool.total(), 0);
  EXPECT_EQ(pool.Allocate(), PagePool::kNoPage);
}

}  // namespace
}  // namespace automodeld
