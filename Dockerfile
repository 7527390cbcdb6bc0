# The gateway without torch or vLLM. docker-compose.yml adds an engine and a Redis.
FROM python:3.11-slim AS build

# The routing decision is compiled (models/forecast.c); the image that serves needs no compiler.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev

WORKDIR /laconic
RUN python -m venv /opt/laconic
COPY requirements/gateway.txt requirements/gateway.txt
RUN /opt/laconic/bin/pip install --no-cache-dir --no-deps -r requirements/gateway.txt

COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY gateway gateway
RUN /opt/laconic/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/laconic/bin/python -c "from models.profile import LIBRARY; assert LIBRARY"

FROM python:3.11-slim

COPY --from=build /opt/laconic /opt/laconic
RUN useradd --create-home --uid 1000 laconic && install --directory --owner=laconic /home/laconic/state /home/laconic/engine
USER laconic
ENV PATH=/opt/laconic/bin:$PATH LACONIC_STATE_DIR=/home/laconic/state
ENTRYPOINT ["laconic"]
CMD ["serve"]
