# An image that answers  predict INPUT_DIR OUTPUT_CSV  with no network, from a bundle that ./run.sh bundle made:
#   ./run.sh bundle --config perfect500k.toml --out bundle
#   docker build --tag answer .                        (--build-arg BUNDLE=DIR for another folder beside this file)
#   docker run --rm --network none -v "$PWD/queries:/in:ro" -v "$PWD/out:/out" answer predict /in /out/answer.csv
FROM python:3.11-slim
WORKDIR /top7
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY constraints.txt pyproject.toml run.sh ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    > /tmp/requirements.txt && pip install --no-cache-dir --constraint constraints.txt --requirement /tmp/requirements.txt
COPY competition competition
COPY features features
COPY tuning tuning
COPY submissions submissions
ARG BUNDLE=bundle
COPY ${BUNDLE} /bundle
ENV PYTHON=python TOP7_BUNDLE=/bundle HF_HUB_OFFLINE=1
ENTRYPOINT ["./run.sh"]
