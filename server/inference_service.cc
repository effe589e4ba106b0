#include "server/inference_service.h"

#include <span>

#include "core/status.h"
#include "core/text/text.h"
#include "server/check_generate.h"
#include "server/convert.h"
#include "server/embed_call.h"
#include "server/encode_text.h"
#include "server/generate_call.h"
#include "server/unary_call.h"

namespace automodeld {
namespace {

constexpr size_t kMaxDetokenizeIds = 1'048'576;

using TokenizeCall = UnaryCall<v1::TokenizeRequest, v1::TokenizeResponse>;
using DetokenizeCall = UnaryCall<v1::DetokenizeRequest, v1::DetokenizeResponse>;

absl::Status Tokenize(TokenizeCall& call) {
  const v1::TokenizeRequest& request = call.request();
  ASSIGN_OR_RETURN(const std::shared_ptr<const ServedModel> model, call.Find(request.model()));
  RETURN_IF_ERROR(CheckHasTokenizer(*model));
  RETURN_IF_ERROR(CheckSize("text", request.text().size(), 0, kMaxTextBytes, "bytes"));
  const bool add_special_tokens = !request.has_add_special_tokens() || request.add_special_tokens();
  RETURN_IF_ERROR(CheckCanFit(*model, request.text()));
  ASSIGN_OR_RETURN(const auto ids, model->tokenizer->Encode(request.text(), add_special_tokens));
  call.response()->mutable_token_ids()->Add(ids.begin(), ids.end());
  call.record().AddTokens(static_cast<int64_t>(ids.size()));
  return absl::OkStatus();
}

absl::Status Detokenize(DetokenizeCall& call) {
  const v1::DetokenizeRequest& request = call.request();
  ASSIGN_OR_RETURN(const std::shared_ptr<const ServedModel> model, call.Find(request.model()));
  RETURN_IF_ERROR(CheckHasTokenizer(*model));
  const std::span<const TokenId> ids(request.token_ids().data(), static_cast<size_t>(request.token_ids_size()));
  RETURN_IF_ERROR(CheckTokenIds("token_ids", ids, kMaxDetokenizeIds, model->tokenizer->vocab_size()));
  ASSIGN_OR_RETURN(*call.response()->mutable_text(), model->tokenizer->Decode(ids, request.skip_special_tokens()));
  call.record().AddTokens(request.token_ids_size());
  return absl::OkStatus();
}

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                                       const grpc::ByteBuffer* request) {
  return GenerateCall::Start(services_, context, request);
}

grpc::ServerUnaryReactor* InferenceService::Embed(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                                  grpc::ByteBuffer* answer) {
  return EmbedCall::Start(services_, context, request, answer);
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request, grpc::ByteBuffer* answer) {
  return TokenizeCall::StartOn(services_.PoolFor(request->Length()), services_, context, "Tokenize", request, answer,
                               automodeld::Tokenize);
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request, grpc::ByteBuffer* answer) {
  return DetokenizeCall::StartOn(services_.workers, services_, context, "Detokenize", request, answer,
                                 automodeld::Detokenize);
}

}  // namespace automodeld
