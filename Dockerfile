# syntax=docker/dockerfile:1

FROM node:24-slim AS dependencies
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# No package that ships needs its install script.
RUN npm ci --omit=dev --ignore-scripts

FROM node:24-slim
ENV NODE_ENV=production \
    SPILLWAY_DATA_DIR=/data \
    SPILLWAY_GATEWAY_MQTT_HOST=0.0.0.0 \
    SPILLWAY_HTTP_HOST=0.0.0.0 \
    SPILLWAY_LOGGING_FORMAT=json
WORKDIR /app
RUN mkdir /data && chown node:node /data
COPY --from=dependencies /app/node_modules ./node_modules
COPY package.json LICENSE ./
COPY config ./config
COPY firmware-sim ./firmware-sim
COPY src ./src
USER node
VOLUME /data
EXPOSE 1883 8080
# Alive, not ready: an overloaded gateway must not be restarted.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.SPILLWAY_HTTP_PORT || 8080}/healthz`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
# SIGTERM drains; see shutdown.drainTimeout.
ENTRYPOINT ["node", "src/spillway.js"]
CMD ["run", "--config", "config/spillway.yaml"]
