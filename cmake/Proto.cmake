# am_proto: the code that protoc writes for proto/, and automodeld.protoset, the same description for clients.
find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
collect(proto_files proto/automodeld/v1/*.proto)
set(generated ${PROJECT_BINARY_DIR}/gen)
set(proto_sources)

foreach(proto ${proto_files})
  file(RELATIVE_PATH stem ${PROJECT_SOURCE_DIR}/proto ${proto})
  string(REGEX REPLACE "\\.proto$" "" stem ${stem})
  set(outputs ${generated}/${stem}.pb.cc ${generated}/${stem}.pb.h
              ${generated}/${stem}.grpc.pb.cc ${generated}/${stem}.grpc.pb.h)
  add_custom_command(
    OUTPUT ${outputs}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${generated}
    COMMAND protobuf::protoc -I ${PROJECT_SOURCE_DIR}/proto --cpp_out=${generated} --grpc_out=${generated}
            --plugin=protoc-gen-grpc=${GRPC_CPP_PLUGIN} ${proto}
    DEPENDS ${proto_files}
    COMMENT "Generating ${stem}.pb.cc")
  list(APPEND proto_sources ${outputs})
endforeach()

add_custom_target(am_generated DEPENDS ${proto_sources})  # what a linter needs before it can read our files
if(proto_files)
  add_library(am_proto STATIC ${proto_sources})
  target_compile_options(am_proto PRIVATE -w)
  target_include_directories(am_proto SYSTEM PUBLIC ${generated})
  target_link_libraries(am_proto PUBLIC gRPC::grpc++ protobuf::libprotobuf)

  set(protoset ${PROJECT_BINARY_DIR}/automodeld.protoset)
  add_custom_command(
    OUTPUT ${protoset}
    COMMAND protobuf::protoc -I ${PROJECT_SOURCE_DIR}/proto --include_imports --include_source_info
            --descriptor_set_out=${protoset} ${proto_files}
    DEPENDS ${proto_files}
    COMMENT "Generating automodeld.protoset")
  add_custom_target(am_protoset ALL DEPENDS ${protoset})
else()
  add_library(am_proto INTERFACE)
endif()
