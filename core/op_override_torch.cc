#include <ATen/core/dispatch/Dispatcher.h>
#include <absl/strings/str_join.h>

#include <tuple>
#include <type_traits>
#include <utility>

#include "core/listing.h"
#include "core/op_override.h"
#include "core/patch.h"
#include "core/status.h"
#include "kernels/tensors.h"

namespace automodeld {

namespace {

template <typename Argument>
c10::IValue ToIValue(const Argument& argument) {
  return argument;
}

c10::IValue ToIValue(const std::optional<at::Tensor>& tensor) { return IsDefined(tensor) ? *tensor : c10::IValue(); }

at::Tensor ToTensor(const c10::IValue& value) { return value.isNone() ? at::Tensor() : value.toTensor(); }

// Tensors, one or a tuple of them, in the order of the schema's results.
template <typename Result>
Result FromStack(const std::vector<c10::IValue>& stack) {
  if constexpr (std::is_same_v<Result, at::Tensor>) {
    return ToTensor(stack.at(0));
  } else {
    return [&]<size_t... i>(std::index_sequence<i...>) { return Result{ToTensor(stack.at(i))...}; }
    (std::make_index_sequence<std::tuple_size_v<Result>>());
  }
}

template <typename Result, typename... Arguments>
void Install(const c10::OperatorHandle& registered, const std::string& version, Op<Result(Arguments...)>& op) {
  op.version = version;
  op.function = [registered](Arguments... arguments) {
    std::vector<c10::IValue> stack = {ToIValue(arguments)...};
    registered.callBoxed(stack);
    return FromStack<Result>(stack);
  };
}

// "mycorp::rms_norm.fast" -> name and overload
c10::OperatorName ParseName(const std::string& name) {
  const size_t dot = name.find('.');
  return {name.substr(0, dot), dot == std::string::npos ? "" : name.substr(dot + 1)};
}

template <typename Entry>
absl::Status Override(const std::string& name, Entry& op) {
  const auto registered = c10::Dispatcher::singleton().findSchema(ParseName(name));
  if (!registered.has_value()) {
    return absl::InvalidArgumentError(
        fmt::format("op_overrides: {}: no operation \"{}\" is registered (--op-library)", op.name, Shortened(name)));
  }
  RETURN_IF_ERROR(Prefixed(fmt::format("op_overrides: {}: ", op.name),
                           AssertSameSignature(op.schema, c10::toString(registered->schema()))));
  Install(*registered, name, op);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Ops> OverrideOps(const Ops& ops, const std::map<std::string, std::string>& overrides) {
  Ops result = ops;
  for (const auto& [op, name] : overrides) {
    bool known = false;
    absl::Status status;
    ForEachOp(
        [&, &op = op, &name = name](auto& entry) {
          if (entry.name != op) return;
          known = true;
          status = Override(name, entry);
        },
        result);
    if (!known) {
      return absl::InvalidArgumentError(
          fmt::format("op_overrides: \"{}\" is not one of {}", Shortened(op), absl::StrJoin(OpNames(), ", ")));
    }
    RETURN_IF_ERROR(status);
  }
  return result;
}

}  // namespace automodeld
