# One image for every service: `docker run moorage worker`, `coordinator`, `cleaner`, ... Built by `docker compose build`.
#
# What a pipeline of yours needs besides goes on top:
#     FROM moorage:0.1.0
#     USER root
#     RUN pip install --no-cache-dir pandas==2.3.3
#     USER 10001:10001

ARG PYTHON=3.13-slim

# The dependencies are a layer of their own, which changes only with pyproject.toml.
FROM python:${PYTHON} AS dependencies
WORKDIR /build
COPY pyproject.toml .
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    print(*project['dependencies'], *project['optional-dependencies']['s3'], sep='\n')" > requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --disable-pip-version-check --root-user-action=ignore --prefix=/install -r requirements.txt

FROM python:${PYTHON} AS package
WORKDIR /build
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --disable-pip-version-check --root-user-action=ignore 'hatchling>=1.27,<2'
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir=/wheel .

FROM python:${PYTHON}
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin moorage \
    && install -d -o moorage -g moorage /var/lib/moorage /var/lib/moorage-state /pipelines
COPY --from=dependencies /install /usr/local
RUN --mount=type=bind,from=package,source=/wheel,target=/wheel \
    pip install --disable-pip-version-check --root-user-action=ignore --no-cache-dir --no-index --no-deps /wheel/*.whl
USER 10001:10001
WORKDIR /pipelines
ENTRYPOINT ["moorage"]
CMD ["--help"]
