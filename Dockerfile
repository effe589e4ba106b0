# docker build -t automodeld .
# docker run --rm -p 127.0.0.1:50051:50051 automodeld        (add --gpus all where there is one)

FROM debian:12 AS build
WORKDIR /src
# The installer's inputs alone, so that a change in the sources does not install everything again.
COPY tools/setup tools/find-cargo tools/packages.txt tools/requirements.txt tools/
COPY core/text/Cargo.toml core/text/Cargo.toml
RUN tools/setup build
COPY . .
# By default those of the preset dist; "90a" builds faster, for Hopper alone.
ARG CUDA_ARCHITECTURES=
RUN cmake --preset dist ${CUDA_ARCHITECTURES:+"-DCMAKE_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURES}"} \
    && tools/build dist "$(nproc)" automodeld am_protoset \
    && tools/bundle /opt/automodeld dist

FROM debian:12-slim
COPY --from=build /opt/automodeld /opt/automodeld
COPY deploy/models /opt/automodeld/models
COPY LICENSE /opt/automodeld/LICENSE
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin automodeld \
    && ln -s /opt/automodeld/bin/automodeld /usr/local/bin/automodeld
ENV LD_LIBRARY_PATH=/opt/automodeld/lib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
EXPOSE 50051 8080
# SIGTERM drains: give `docker stop` more than the 45 s of --drain-timeout (`docker stop --time 60`).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --start-period=60s CMD ["automodeld", "health"]
ENTRYPOINT ["automodeld"]
CMD ["serve", "--model=kjv=/opt/automodeld/models/kjv-6m", "--listen=0.0.0.0:50051", "--insecure-listen", \
     "--admin-listen=127.0.0.1:50052", "--http-listen=0.0.0.0:8080"]
