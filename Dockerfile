# The gateway without torch or vLLM. docker-compose.yml adds an engine and a Redis.
FROM python:3.11-slim

WORKDIR /laconic
COPY requirements/gateway.txt requirements/gateway.txt
RUN pip install --no-cache-dir --no-deps -r requirements/gateway.txt

COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY gateway gateway
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

RUN useradd --create-home laconic && install --directory --owner=laconic /home/laconic/state /home/laconic/engine
USER laconic
ENV LACONIC_STATE_DIR=/home/laconic/state
ENTRYPOINT ["laconic"]
CMD ["serve"]
