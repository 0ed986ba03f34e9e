# syntax=docker/dockerfile:1
# The gateway as a container. Configuration, signing key and database live in the volume:
#   docker build -t isthmus .
#   docker run --rm -v isthmus:/var/lib/isthmus isthmus init --server-name gw.your.domain --listen-host 0.0.0.0 --xmpp-host xmpp.your.domain
#   docker run -d -v isthmus:/var/lib/isthmus -p 8448:8448 isthmus

FROM python:3.13-slim-bookworm AS build
WORKDIR /srv/build
RUN python -m venv /srv/isthmus
COPY requirements/product.txt requirements/
RUN /srv/isthmus/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r requirements/product.txt
# The build back end is a development tool: it stays in this stage, outside the environment that is kept.
COPY requirements/development.txt requirements/
RUN python -m venv tools \
    && tools/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r requirements/development.txt
COPY pyproject.toml README.md LICENSE ./
COPY bridge bridge
COPY migrations migrations
RUN tools/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir dist . \
    && /srv/isthmus/bin/pip install --no-cache-dir --no-index --no-deps dist/isthmus-*.whl

FROM python:3.13-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /var/lib/isthmus --create-home isthmus
COPY --from=build /srv/isthmus /srv/isthmus
ENV PATH=/srv/isthmus/bin:$PATH PYTHONUNBUFFERED=1
USER isthmus
# The default configuration file is config.yaml in the current folder.
WORKDIR /var/lib/isthmus
VOLUME /var/lib/isthmus
EXPOSE 8448
# The port that `isthmus init` writes for health, open inside the container only.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD \
    ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8450/_isthmus/live', timeout=4)"]
ENTRYPOINT ["isthmus"]
CMD ["run"]
