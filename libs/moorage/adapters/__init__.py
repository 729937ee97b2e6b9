"""The ports' production side: the only importers of confluent_kafka, redis and obstore. They translate and retry, they
never decide."""
