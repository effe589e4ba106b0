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

TEST(PagePool, TheLowestFreePageGoesFirst) {
  PagePool pool(6);
  for (int i = 0; i < 5; ++i) pool.Allocate();
  for (const PageId page : {4, 2, 5}) pool.Release(page);
  EXPECT_EQ(pool.Allocate(), 2);
  EXPECT_EQ(pool.Allocate(), 4);
  EXPECT_EQ(pool.Allocate(), 5);
}

TEST(PagePool, OnlyMappedPagesAreHandedOut) {
  PagePool pool(6);
  pool.SetMapped(3);
  EXPECT_EQ(pool.total(), 5);
  EXPECT_EQ(pool.num_free(), 2);
  EXPECT_EQ(pool.Allocate(), 1);
  EXPECT_EQ(pool.Allocate(), 2);
  EXPECT_EQ(pool.Allocate(), PagePool::kNoPage);
  pool.SetMapped(100);
  EXPECT_EQ(pool.mapped(), 5);
  EXPECT_EQ(pool.used(), 2);
  EXPECT_EQ(pool.Allocate(), 3);
}

TEST(PagePool, PagesAboveTheMappedOnesAreGoneUntilTheyAreMappedAgain) {
  PagePool pool(9);
  for (int i = 0; i < 8; ++i) pool.Allocate();
  for (const PageId page : {8, 1, 6, 3, 7, 4}) pool.Release(page);
  pool.SetMapped(6);
  EXPECT_EQ(pool.used(), 2);
  for (const PageId page : {1, 3, 4}) EXPECT_EQ(pool.Allocate(), page);
  EXPECT_EQ(pool.Allocate(), PagePool::kNoPage);
  pool.SetMapped(7);
  EXPECT_EQ(pool.Allocate(), 6);
}

TEST(PagePool, WithoutPagesNothingIsHandedOut) {
  PagePool pool(0);
  EXPECT_EQ(pool.total(), 0);
  EXPECT_EQ(pool.Allocate(), PagePool::kNoPage);
}

}  // namespace
}  // namespace automodeld
