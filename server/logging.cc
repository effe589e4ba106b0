#include "server/logging.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <grpcpp/version_info.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/ansicolor_sink.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#if GRPC_CPP_VERSION_MAJOR == 1 && GRPC_CPP_VERSION_MINOR < 65  // later ones log through Abseil
#include <grpc/support/log.h>
#define AUTOMODELD_GRPC_LOGS 1
#endif

namespace automodeld {
namespace {

std::string Utc(spdlog::log_clock::time_point time) {
  using std::chrono::milliseconds;
  const auto since_epoch = std::chrono::duration_cast<milliseconds>(time.time_since_epoch());
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(spdlog::log_clock::to_time_t(time)),
                     since_epoch.count() % 1000);
}

std::string Quoted(std::string_view text) {
  return nlohmann::json(std::string(text)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

class JsonFormatter : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& line) override {
    const auto level = spdlog::level::to_string_view(message.level);
    fmt::format_to(std::back_inserter(line), "{{\"time\":\"{}\",\"level\":\"{}\",\"message\":{}}}\n", Utc(message.time),
                   std::string_view(level.data(), level.size()),
                   Quoted({message.payload.data(), message.payload.size()}));
  }
  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<JsonFormatter>(); }
};

// U+0080..U+009F are controls, too.
bool IsControl(std::string_view text, size_t i) {
  const auto byte = static_cast<unsigned char>(text[i]);
  const bool second = i > 0 && text[i - 1] == '\xc2';
  return byte < 0x20 || byte == 0x7f || (second && byte < 0xa0);
}

// %* of the text format: the message, as %v but on one line.
class OneLine : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& line) override {
    const std::string_view text(message.payload.data(), message.payload.size());
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\n') {
        fmt::format_to(std::back_inserter(line), "\\n");
      } else if (IsControl(text, i)) {
        fmt::format_to(std::back_inserter(line), "\\x{:02x}", static_cast<unsigned char>(text[i]));
      } else {
        line.push_back(text[i]);
      }
    }
  }
  std::unique_ptr<spdlog::custom_flag_formatter> clone() const override { return std::make_unique<OneLine>(); }
};

#ifdef AUTOMODELD_GRPC_LOGS
void LogFromGrpc(gpr_log_func_args* args) {
  const auto level = args->severity == GPR_LOG_SEVERITY_ERROR  ? spdlog::level::warn
                     : args->severity == GPR_LOG_SEVERITY_INFO ? spdlog::level::info
                                                               : spdlog::level::debug;
  spdlog::log(level, "grpc: {}", args->message);
}
#endif

}  // namespace

std::unique_ptr<spdlog::formatter> TextLogFormatter() {
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<OneLine>('*').set_pattern("%H:%M:%S.%e %^%-7l%$ %*");
  return formatter;
}

std::unique_ptr<spdlog::formatter> JsonLogFormatter() { return std::make_unique<JsonFormatter>(); }

void SetUpLogging(const LogOptions& options, const Terminal& terminal) {
  const bool json = options.format == "json" || (options.format == "auto" && !terminal.err_is_terminal);
  const auto colours = terminal.err_colour ? spdlog::color_mode::always : spdlog::color_mode::never;
  auto sink = std::make_shared<spdlog::sinks::ansicolor_stderr_sink_mt>(colours);
  auto logger = std::make_shared<spdlog::logger>("automodeld", std::move(sink));
  logger->set_formatter(json ? JsonLogFormatter() : TextLogFormatter());
  logger->set_level(spdlog::level::from_str(options.level));
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
#ifdef AUTOMODELD_GRPC_LOGS
  gpr_set_log_function(LogFromGrpc);
#endif
}

}  // namespace automodeld
