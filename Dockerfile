# The service: docker build -t spoken_lang . && docker run --rm -p 8000:8000 spoken_lang
FROM python:3.12-slim AS build
WORKDIR /source
COPY setup.py settings.ini README.md LICENSE MANIFEST.in ./
COPY spoken_lang spoken_lang
COPY nbs/samples nbs/samples
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir '.[serve]'

FROM python:3.12-slim
RUN useradd --create-home --uid 1000 speaker
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 GRADIO_TEMP_DIR=/tmp/gradio
USER 1000
WORKDIR /home/speaker
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
# A password: docker run -e SPOKEN_LANG_AUTH=NAME:PASSWORD ...
ENTRYPOINT ["spoken_lang", "serve", "--host", "0.0.0.0"]
