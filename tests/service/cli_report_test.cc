// Load reports as people read them.
#include "server/cli_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace automodeld {
namespace {

TEST(ReportText, PatchesFallbacksAndNotesAreALineEach) {
  v1::LoadReport report;
  auto* patch = report.add_patches();
  patch->set_op("rms_norm");
  patch->set_from("eager");
  patch->set_to("mycorp::rms_norm");
  auto* attempt = report.add_attempts();
  attempt->set_what("attn_implementation=flash_attention_2");
  attempt->set_error("needs a GPU");
  attempt->set_fallback("sdpa");
  report.add_decode_attention_ops("qkv_rope_write_kv");
  report.add_notes("sample stays eager: no fused version for cuda");
  report.add_notes("sdpa_method=[MATH] has no effect under eager");
  const std::string text = ReportText(report);
  for (const char* line :
       {"\npatch +rms_norm: eager -> mycorp::rms_norm\n", "\nin decode +qkv_rope_write_kv: inside attention\n",
        "\nfallback +attn_implementation=flash_attention_2 -> sdpa: needs a GPU\n",
        "\nnote +sample stays eager: no fused version for cuda\n",
        "\nnote +sdpa_method=\\[MATH\\] has no effect under eager\n"}) {
    EXPECT_THAT(text, ::testing::ContainsRegex(line));
  }
}

}  // namespace
}  // namespace automodeld
