#!/bin/sh
# Makes the golden files anew, by the classes of four versions of Flink; see README.md. Takes two minutes.
set -eu
cd "$(dirname "$0")"

run() { # folder with classes and libs, main class, arguments
    built=$1
    shift
    java --add-opens=java.base/java.util=ALL-UNNAMED --add-opens=java.base/java.lang=ALL-UNNAMED \
        -cp "$built/classes:$built/libs/*" "$@"
}

make_by() { # artifact, version, file
    mvn -q -f java-legacy/pom.xml -Dflink.artifact="$1" -Dflink.version="$2" package
    run "java-legacy/target/$2" moorage.MakeFile "$3"
}

rm -rf golden golden-version-1
make_by flink-runtime_2.11 1.2.1 golden-version-1/_metadata
make_by flink-runtime_2.11 1.10.3 golden/flink-1.10/_metadata
make_by flink-runtime 1.15.4 golden/flink-1.15/_metadata

mvn -q -f java/pom.xml package
work=$(mktemp -d /tmp/flink-golden-XXXXXX)
trap 'rm -r "$work"' EXIT
run java/target moorage.Describe golden/flink-1.10 golden/flink-1.15
run java/target moorage.MakeFiles golden
run java/target moorage.RunJobs golden "$work"
