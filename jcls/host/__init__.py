"""What jcls asks of the machine that it runs on."""
